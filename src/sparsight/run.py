"""Run: the handle of a sparsified model, with stats and trace of the last prefill, and detach()."""

import numbers
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from types import TracebackType
from typing import Any, Self

import torch
from PIL import Image
from torch import nn

from sparsight.engine.hooks import Engine
from sparsight.engine.parts import Parts
from sparsight.errors import AttachError, SettingError, UnsupportedError
from sparsight.methods.method import Method
from sparsight.picture import Finished, name_of, picture_of, words_of
from sparsight.sequence.prompt import check_marks
from sparsight.sequence.trace import Stats, Trace

LOCK = Lock()  # attaching and detaching look first and then write
MARK = "_sparsight_run"  # attribute of the modules that a run holds


class Run:
    """A model that prunes its visual prefills, until the block ends or `detach()` is called."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._entered = False

    @property
    def model(self) -> nn.Module:
        """The model that is pruned, PEFT's wrapper left out."""
        return self._engine.parts.model

    @property
    def method(self) -> Method:
        """The method that chooses."""
        return self._engine.method

    @property
    def stats(self) -> Stats:
        """Counts and costs of the caller's last prefill with images.

        Each thread reads its own; one that ran none yet reads the newest of all.

        Raises: AttachError: there was none yet.
        """
        return self._finished()[0]

    @property
    def trace(self) -> Trace:
        """Which visual tokens were kept, recycled and dropped in that prefill.

        Raises: AttachError: there was none yet.
        """
        return self._finished()[1]

    def _finished(self) -> tuple[Stats, Trace]:
        finished = self._engine.finished.get()
        if finished is None:
            raise AttachError(
                "no prompt with an image has run yet; call generate() or the model first."
            )
        return finished

    def picture(
        self,
        images: Any,
        question: str = "",
        answers: Mapping[str, str] | None = None,
        processor: Any = None,
        sample: int = 0,
    ) -> Image.Image:
        """Draw which visual tokens lived through each site of the caller's last prefill with images.

        Args:
            images: of the sample in the order of its prompt: one or several, each what `Chat.ask`
                takes, and converted in the same way; a clip is the list of its frames.
            question: written above.
            answers: written above, each behind its label.
            processor: of the model; asked what it cuts off an image and how it tiles it.
            sample: which one of the batch.
        Returns: an RGB image.

        Raises:
            AttachError: there was no prefill with images yet.
            UnsupportedError: it is not known where the visual tokens lie, or they lie nowhere.
            InputError: no such sample; something that is no image, or other images than the
                sample's; one of which the processor shows next to nothing; words that are no str;
                or a processor that has no image processor.
        """
        finished = Finished(name_of(self._engine.parts.model), self.method, *self._finished())
        return picture_of(finished, images, words_of(question, answers), processor, sample)

    @property
    def visual_mask(self) -> torch.Tensor | None:
        """(B, L) bool, the visual tokens of a text model's next prompts; None for vision-language models.

        Each thread that sets it has its own; the others read the newest.
        """
        return self._engine.marks.get()

    @visual_mask.setter
    def visual_mask(self, marks: torch.Tensor) -> None:
        """Mark the visual tokens of the next prompts.

        Raises:
            UnsupportedError: the model tells its visual tokens itself.
            PromptError: no (B, L) bool tensor.
        """
        if self._engine.marks.get() is None:
            raise UnsupportedError(
                "a vision-language model tells its visual tokens itself; it takes no visual_mask."
            )
        self._engine.marks.set(check_marks(marks))

    @contextmanager
    def rating(self, last: int) -> Iterator[None]:
        """Have only the end of each prompt's text rate its images, inside the block.

        For a conversation that is prefilled again: the earlier turns stay in the prompt, and do not
            ask. It holds for
        the caller's own prompts, not for those of other threads.

        Args:
            last: tokens at the end of the prompt that may rate, at least 1; those behind the last
                image at most.
        Raises: SettingError: `last` is below 1.
        """
        if isinstance(last, bool) or not isinstance(last, numbers.Integral) or last < 1:
            raise SettingError(
                f"rating(last={last!r}) leaves no token that could rate; give a whole number >= 1."
            )
        before = self._engine.reader.rating.get()
        self._engine.reader.rating.set(int(last))
        try:
            yield
        finally:
            self._engine.reader.rating.set(before)

    def detach(self) -> None:
        """Leave the model as it was; a second call does nothing."""
        with LOCK:
            self.release()

    def release(self) -> None:
        """Detach, for a caller that holds LOCK."""
        if self._engine.attached:
            self._engine.detach()
            for part in held_parts(self._engine.parts):
                delattr(part, MARK)

    def __enter__(self) -> Self:
        """Enter the block; the model prunes already.

        Raises: AttachError: the run has been detached, or its block has been entered before.
        """
        if not self._engine.attached:
            raise AttachError(
                "this run has ended, and its model prunes no more; call sparsify() for a new one."
            )
        if self._entered:
            raise AttachError(
                "the block of this run is entered already, and would end with the inner one; enter it once."
            )
        self._entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the model as it was, also after an error."""
        self.detach()


def held_parts(parts: Parts) -> set[nn.Module]:
    """Return the modules that only one run at a time may hold.

    Models may share a text decoder, or its layers.
    """
    return {parts.base, parts.decoder, *parts.layers}


def run_of(model: nn.Module) -> Run | None:
    """Return the run that holds a model or a part of it; None if the model is not sparsified.

    The run may have been made with another model that shares the part.
    """
    run: Run | None = next(
        (vars(part)[MARK] for part in model.modules() if MARK in vars(part)), None
    )
    return run
