"""sparsify() attaches a method to a model: find the parts, check the pair, build, attach."""

from numbers import Real

import torch
from torch import nn

from sparsight.engine.compat import warn_untested
from sparsight.engine.generate_guard import guard_generate
from sparsight.engine.hooks import Engine
from sparsight.engine.parts import Parts, find_parts, unwrap
from sparsight.engine.probe import probe
from sparsight.engine.support import check
from sparsight.errors import AttachError, UnsupportedError
from sparsight.families import family_of
from sparsight.methods import default_method
from sparsight.methods.method import Method
from sparsight.run import LOCK, MARK, Run, held_parts
from sparsight.sequence.prompt import check_marks


def sparsify(
    model: nn.Module,
    method: Method | float,
    *,
    visual_mask: torch.Tensor | None = None,
    replace: bool = False,
) -> Run:
    """Attach a method to a vision-language model, so that its prefills process fewer visual tokens.

    Args:
        model: an unmodified transformers model of a supported family, or PEFT's wrapper of one, in
            evaluation mode.
        method: what to keep; all settings belong to it. A number is a budget for the recommended
            method: an int is a count of visual tokens per sample, a float in (0, 1] the fraction.
        visual_mask: (B, L) bool, for a text model that gets its visual tokens in `inputs_embeds`:
            which tokens are visual. Set `run.visual_mask` before a prompt with other positions of
            visual tokens. None for vision-language models.
        replace: whether a run that already holds the model is detached first, as when a notebook's
            cell runs again. If the model or the method is refused, the earlier run stays attached.
            If this call is made inside the earlier run's block, the end of that block detaches
            nothing: the model stays sparsified until the new run's block ends or its `detach()` is
            called.

    Returns:
        The handle of the run: use it as a context manager, or call its `detach()`.

    Raises:
        UnsupportedError: the model, or an option of it, is not supported.
        AttachError: the model, or another one that shares its text decoder, is already sparsified.
        BudgetError: a number that is no budget.
        SettingError: the method's sites do not fit the model.
        PromptError: `visual_mask` is not a (B, L) bool tensor.
    """
    warn_untested()
    if isinstance(method, Real) and not isinstance(method, bool):
        method = default_method(method)  # type: ignore[arg-type]  # NumPy's numbers too
    if not isinstance(method, Method):
        raise UnsupportedError(
            f"{method!r} is not a method; give an instance such as SparseVLM(retain=192), or a "
            "budget alone, such as 192."
        )
    Method.__post_init__(method)  # a subclass may override it without calling it
    marks = None if visual_mask is None else check_marks(visual_mask)
    parts = find_parts(model, marked=marks is not None)
    method = method.for_space(parts.family.space)
    check(parts, method)
    engine = Engine(parts, method, marks)
    with LOCK:
        _make_room(parts, replace=replace)
        return _attach(engine)


def _attach(engine: Engine) -> Run:
    """Attach an engine to its model, and return the handle of the run."""
    parts = engine.parts
    if parts.family.probed:
        probe(parts)
    try:
        engine.attach()
        engine.add_remover(guard_generate(parts.model, engine))
    except BaseException:  # interrupts too, because the caller has no handle to detach with
        engine.detach()
        raise
    run = Run(engine)
    for part in held_parts(parts):
        vars(part)[MARK] = run
    return run


def _make_room(parts: Parts, *, replace: bool) -> None:
    """Check that no other run holds a part of the model, or detach the run that does.

    Raises: AttachError: another run holds a part, and `replace` is false.
    """
    for run in {vars(part)[MARK] for part in held_parts(parts) if MARK in vars(part)}:
        if not replace:
            other = type(run.model).__name__
            raise AttachError(
                f"this {type(parts.model).__name__} is already sparsified, or shares its layers "
                f"with a {other} that is; detach() that run first (run_of(model) returns it), or "
                "give sparsify(..., replace=True)."
            )
        run.release()


def base_of(model: nn.Module) -> nn.Module:
    """Return the part of a vision-language model that merges image features into the text.

    Raises: UnsupportedError: the model is of no supported family.
    """
    model = unwrap(model)
    return family_of(model).base_model(model)
