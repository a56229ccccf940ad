"""sparsify(): the only way in. Run: the handle, and the other way out."""

import numbers
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from types import TracebackType
from typing import Any, Self

import torch
from PIL import Image
from torch import nn

from sparsight.engine.cache import check_cache_classes
from sparsight.engine.checks import check_distances, check_host
from sparsight.engine.compat import check_signatures, warn_untested
from sparsight.engine.generate_guard import guard_generate
from sparsight.engine.hooks import Engine
from sparsight.engine.probe import probe
from sparsight.errors import AttachError, SettingError, UnsupportedError
from sparsight.families import Family, family_of, text_family
from sparsight.methods.method import Method
from sparsight.picture import Finished, name_of, picture_of, words_of
from sparsight.sequence.prompt import check_marks
from sparsight.sequence.trace import Stats, Trace

MARK = "_sparsight_run"

_LOCK = Lock()  # attaching looks first and then writes


class Run:
    """A model that prunes its visual prefills, until the block ends or `detach()` is called."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._entered = False

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
        finished = Finished(name_of(self._engine.model), self.method, *self._finished())
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
        before = self._engine.rating.get()
        self._engine.rating.set(int(last))
        try:
            yield
        finally:
            self._engine.rating.set(before)

    def detach(self) -> None:
        """Leave the model as it was; a second call does nothing."""
        with _LOCK:
            self._release()

    def _release(self) -> None:
        if self._engine.attached:
            self._engine.detach()
            for part in _parts(self._engine):
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


def sparsify(
    model: nn.Module,
    method: Method,
    *,
    visual_mask: torch.Tensor | None = None,
    replace: bool = False,
) -> Run:
    """Have a vision-language model look at fewer visual tokens, reversibly.

    Args:
        model: an unmodified transformers model of a supported family, or PEFT's wrapper of one, in
            evaluation mode.
        method: what to keep; all settings belong to it.
        visual_mask: (B, L) bool, for a text model that gets its visual tokens in `inputs_embeds`:
            which of them are visual. Set `run.visual_mask` before a prompt laid out differently.
            None for vision-language models.
        replace: whether a run that holds the model already is detached first, as when a notebook's
            cell runs again. If the new run is refused by what the model or the method is, the old
            one stays. Within the replaced run's block, the new run outlives it: that block's end
                detaches nothing, and the model stays sparsified until the
            new run's block ends or its `detach()` is called.

    Returns:
        A handle, to be used as a context manager or detached by hand.

    Raises:
        UnsupportedError: the model, or an option of it, is not supported.
        AttachError: the model, or another one that shares its text decoder, is already sparsified.
        SettingError: the method's sites do not fit the model.
        PromptError: `visual_mask` is no (B, L) bool tensor.
    """
    warn_untested()
    if not isinstance(method, Method):
        raise UnsupportedError(
            f"{method!r} is not a method; give an instance such as SparseVLM(retain=192)."
        )
    Method.__post_init__(method)  # a class that overrides it may have left it out
    model = unwrapped(model)
    family = family_of(model) if visual_mask is None else text_family(model)
    check_pair(family, method)
    engine = Engine(
        model, family, method, None if visual_mask is None else check_marks(visual_mask)
    )
    _check_model(engine)
    with _LOCK:
        _make_room(engine, replace=replace)
        return _attach(engine)


def _check_model(engine: Engine) -> None:
    """Check that a model has all that the engine looks for, and nothing that it cannot host.

    Raises: UnsupportedError: it has not.
    """
    marked = engine.marks.get() is not None
    if not marked:
        engine.family.check_placeholders(vars(engine.base)["config"])
    check_cache_classes()
    check_signatures(
        engine.base, engine.decoder, engine.layers, () if marked else engine.family.features
    )
    check_host(engine.model, engine.decoder, engine.method.positions)
    check_distances(engine.family, engine.method, engine.beside.frequencies())


def _attach(engine: Engine) -> Run:
    """Put an engine on its model."""
    if engine.family.probed:
        probe(engine)
    try:
        engine.attach()
        engine.add_remover(guard_generate(engine.model, engine))
    except BaseException:  # an interrupt too: nobody has a handle yet
        engine.detach()
        raise
    run = Run(engine)
    for part in _parts(engine):
        vars(part)[MARK] = run
    return run


def _parts(engine: Engine) -> set[nn.Module]:
    """Return the modules that one run alone may hold: models may share a text decoder, or its layers."""
    return {engine.base, engine.decoder, *engine.layers}


def _make_room(engine: Engine, *, replace: bool) -> None:
    """Check that no other run holds a part of the model, or detach it.

    Raises: AttachError: one does, and is not to be replaced.
    """
    for run in {vars(part)[MARK] for part in _parts(engine) if MARK in vars(part)}:
        if not replace:
            held = type(run._engine.model).__name__
            raise AttachError(
                f"this {type(engine.model).__name__} is already sparsified, or shares its layers with a {held} that "
                "is; detach() that run first (run_of(model) returns it), or give sparsify(..., replace=True)."
            )
        run._release()


def base_of(model: nn.Module) -> nn.Module:
    """Return the part of a vision-language model that merges image features into the text.

    Raises: UnsupportedError: the model is of no supported family.
    """
    model = unwrapped(model)
    return family_of(model).base_model(model)


def run_of(model: nn.Module) -> Run | None:
    """Return the run that holds a model or a part of it, also through another model that shares the part.

    Returns: None if the model is not sparsified.
    """
    run: Run | None = next(
        (vars(part)[MARK] for part in model.modules() if MARK in vars(part)), None
    )
    return run


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model within a wrapper that adds adapters to it, as PEFT's do."""
    inner = getattr(model, "get_base_model", None)
    return inner() if callable(inner) and hasattr(model, "peft_config") else model


def check_pair(family: Family, method: Method) -> None:
    """Check that a method's settings are defined for a family.

    Raises: UnsupportedError: they are not.
    """
    name = type(method).__name__
    if method.scales_images and family.encoder is None:
        raise UnsupportedError(
            f"{name} cannot scale the images of {family.name}; use Pool or Uniform instead."
        )
    if method.positions not in family.positions:
        allowed = " or ".join(f"{name}(positions={policy!r})" for policy in family.positions)
        raise UnsupportedError(
            f"positions={method.positions!r} is not defined for {family.name}; give {allowed}."
        )
