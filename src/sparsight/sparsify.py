"""sparsify(): the only way in. Run: the handle, and the other way out."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from torch import nn

from sparsight.engine import Engine
from sparsight.errors import AttachError, UnsupportedError
from sparsight.families import Family, family_of
from sparsight.guard import guard_generate
from sparsight.host import check_host
from sparsight.method import Method
from sparsight.probe import probe
from sparsight.trace import Stats, Trace

MARK = "_sparsight_run"


class Run:
    """A model that prunes its visual prefills, until the block ends or `detach()` is called."""

    def __init__(self, model: nn.Module, engine: Engine) -> None:
        self._model, self._engine = model, engine

    @property
    def method(self) -> Method:
        """The method that chooses."""
        return self._engine.method

    @property
    def stats(self) -> Stats:
        """Counts and costs of the last prefill with images.

        Raises: AttachError: there was none yet.
        """
        if self._engine.stats is None:
            raise AttachError("no prompt with an image has run yet; call generate() or the model first.")
        return self._engine.stats

    @property
    def trace(self) -> Trace:
        """Which visual tokens were kept, recycled and dropped in the last prefill with images.

        Raises: AttachError: there was none yet.
        """
        if self._engine.trace is None:
            raise AttachError("no prompt with an image has run yet; call generate() or the model first.")
        return self._engine.trace

    def detach(self) -> None:
        """Leave the model as it was; a second call does nothing."""
        if self._engine.attached:
            self._engine.detach()
            delattr(self._engine.base, MARK)

    def __enter__(self) -> Self:
        """Enter the block; the model prunes already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the model as it was, also after an error."""
        self.detach()


def sparsify(model: nn.Module, method: Method) -> Run:
    """Have a vision-language model look at fewer visual tokens, reversibly.

    Args:
        model: an unmodified transformers model of a supported family, or PEFT's wrapper of one, in evaluation mode.
        method: what to keep; all settings belong to it.

    Returns:
        A handle, to be used as a context manager or detached by hand.

    Raises:
        UnsupportedError: the model, or an option of it, is not supported.
        AttachError: the model is already sparsified.
        SettingError: the method's sites do not fit the model.
    """
    if not isinstance(method, Method):
        raise UnsupportedError(f"{method!r} is not a method; give an instance such as SparseVLM(retain=192).")
    if hasattr(model, "_orig_mod"):
        raise UnsupportedError("the model is compiled, which ignores new hooks; sparsify it before torch.compile.")
    model = unwrapped(model)
    family = family_of(model)
    if MARK in vars(family.base_model(model)):
        raise AttachError(f"this {type(model).__name__} is already sparsified; detach() the first run before another.")
    check_pair(family, method)
    engine = Engine(model, family, method)
    check_host(model, engine.decoder, method.positions)
    check_distances(family, method, engine.beside.frequencies())
    if family.probed:
        probe(engine)
    engine.attach()
    engine.add_remover(guard_generate(model, engine))
    run = Run(model, engine)
    vars(engine.base)[MARK] = run  # on the part that every handle on these layers shares
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
        raise UnsupportedError(f"{name} cannot scale the images of {family.name}; use Pool or Uniform instead.")
    if method.positions not in family.positions:
        allowed = " or ".join(f"{name}(positions={policy!r})" for policy in family.positions)
        raise UnsupportedError(f"positions={method.positions!r} is not defined for {family.name}; give {allowed}.")


def check_distances(family: Family, method: Method, frequencies: Sequence[object]) -> None:
    """Check that a method that reads rotary distances finds them.

    Raises: UnsupportedError: positions are not one number per token.
    """
    if method.needs_distance and None in frequencies:
        raise UnsupportedError(
            f"{type(method).__name__} divides attention by a prior of one rotary distance, and tokens of {family.name} "
            "are several apart at once; use SparseVLM(positions='keep')."
        )
