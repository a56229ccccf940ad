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

LOCK = Lock()  # held while a run is attached or detached, as both read marks and then change them
MARK = "_sparsight_run"  # attribute that a run sets on the modules that it holds


class Run:
    """The handle of a model whose prefills with images are pruned.

    The model is pruned until the run's `with` block ends or `detach()` is called.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._entered = False

    @property
    def model(self) -> nn.Module:
        """The pruned model, without PEFT's wrapper."""
        return self._engine.parts.model

    @property
    def method(self) -> Method:
        """The method that chooses visual tokens."""
        return self._engine.method

    @property
    def stats(self) -> Stats:
        """Counts and costs of the last prefill with images.

        Each thread reads those of its own last prefill. A thread that has run none reads those of
        the newest prefill of any thread.

        Raises: AttachError: no prefill with images has run yet.
        """
        return self._finished()[0]

    @property
    def trace(self) -> Trace:
        """Which visual tokens were kept, recycled and dropped in the prefill of `stats`.

        Raises: AttachError: no prefill with images has run yet.
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
        """Return a drawing of the visual tokens that were kept at each site in the last prefill.

        Args:
            images: those of the sample, in the order of its prompt: one or several, each as
                `Chat.ask` takes and converts it; a clip is one of `sparsight.videos.read_clip`, or
                the list of its frames.
            question: written above the images.
            answers: written above the images, each behind its label.
            processor: of the model, which says what it crops of an image and how it tiles it.
            sample: index of the sample in the batch.
        Returns: an RGB image.

        Raises:
            AttachError: no prefill with images has run yet.
            UnsupportedError: it is not known where in the images the visual tokens lie, or they lie
                nowhere.
            InputError: the batch has no such sample; something is not an image, or the images are
                not those of the sample; the processor crops nearly all of an image; question or
                answers are not str; or the processor has no image processor.
        """
        finished = Finished(name_of(self._engine.parts.model), self.method, *self._finished())
        return picture_of(finished, images, words_of(question, answers), processor, sample)

    @property
    def visual_mask(self) -> torch.Tensor | None:
        """(B, L) bool, the visual tokens of a text model's next prompts.

        It is None for vision-language models. A thread reads what it has set itself, or else what
        any thread has set last.
        """
        return self._engine.marks.get()

    @visual_mask.setter
    def visual_mask(self, marks: torch.Tensor) -> None:
        """Mark the visual tokens of the next prompts.

        Raises:
            UnsupportedError: the model is a vision-language model.
            PromptError: `marks` is not a (B, L) bool tensor.
        """
        if self._engine.marks.get() is None:
            raise UnsupportedError(
                "the token ids of a vision-language model show its visual tokens; it takes no "
                "visual_mask."
            )
        self._engine.marks.set(check_marks(marks))

    @contextmanager
    def rating(self, last: int) -> Iterator[None]:
        """Have only the last tokens of each prompt rate its images, inside the block.

        Use it for a conversation that is prefilled again: earlier turns stay in the prompt, but
        only the newest turn asks. It holds for prompts of the calling thread or task only.

        Args:
            last: how many tokens at the end of the prompt may rate, at least 1. Tokens in front of
                the last image never rate.
        Raises: SettingError: `last` is not a whole number of 1 or more.
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
        """Restore the model; a second call does nothing."""
        with LOCK:
            self.release()

    def release(self) -> None:
        """Restore the model, for a caller that holds LOCK."""
        if self._engine.attached:
            self._engine.detach()
            for part in held_parts(self._engine.parts):
                delattr(part, MARK)

    def __enter__(self) -> Self:
        """Return the run, whose model is pruned already.

        Raises: AttachError: the run has been detached, or its block has been entered before.
        """
        if not self._engine.attached:
            raise AttachError(
                "this run has ended, and its model is no longer pruned; call sparsify() again."
            )
        if self._entered:
            raise AttachError(
                "the block of this run has been entered already, and would end with the inner "
                "block; enter it once."
            )
        self._entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore the model, also after an error."""
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
    runs: Iterator[Run] = (vars(part)[MARK] for part in model.modules() if MARK in vars(part))
    return next(runs, None)
