"""Checks of what a method answers, so that a mistake in an own method is named and never shows as a wrong answer.

Kinds, shapes and counts are known on the host. What the indices are costs a wait for the device, so on other devices
than the CPU they are looked at only where the method's `select` does not ship with sparsight.
"""

from collections.abc import Callable
from typing import Never

import torch

from sparsight.errors import MethodError
from sparsight.methods.method import Method
from sparsight.methods.view import Recycled, Selection, View

SHIPPED = "sparsight."

Reader = Callable[[torch.Tensor], torch.Tensor]


def check_selection(selection: object, method: Method, view: View, to_host: Reader) -> Selection:
    """Return a method's answer if it is one: as many tokens as were promised, each there and each once.

    Args: to_host: reads a tensor on the host and counts the wait.
    Raises: MethodError: it is not; the method is wrong, not the input.
    """
    if not isinstance(selection, Selection):
        _refuse(method, f"answered a {type(selection).__name__}; return Selection(keep), with keep = (K,) indices")
    present, device = len(view.hidden), view.hidden.device
    _check_indices(method, "keep", selection.keep, device)
    if selection.recycled is not None:
        _check_recycled(method, selection.recycled, view)
    score = selection.score
    if score is not None and (not isinstance(score, torch.Tensor) or score.shape != view.hidden.shape[:-1]):
        _refuse(method, f"answered score as {_kind(score)}; give one number for each visual token, or None")
    _check_counts(method, selection, view, present)
    if not type(method).select.__module__.startswith(SHIPPED):
        _check_values(method, selection, present, to_host)
        _check_finite(method, selection, view, to_host)
    elif device.type == "cpu":
        _check_values(method, selection, present, torch.Tensor.cpu)  # nothing to wait for
    return selection


def check_raters(chosen: object, method: Method, text: torch.Tensor) -> torch.Tensor:
    """Return a method's choice of raters if it is one: (T,) bool.

    Raises: MethodError: it is not.
    """
    if not isinstance(chosen, torch.Tensor) or chosen.dtype != torch.bool or chosen.shape != (len(text),):
        _refuse(method, f"chose raters as {_kind(chosen)}; return a bool tensor of shape ({len(text)},)")
    return chosen


def check_some(chosen: tuple[torch.Tensor, ...], method: Method) -> tuple[torch.Tensor, ...]:
    """Return each sample's raters, (T,) bool on the host, if there are any.

    Raises: MethodError: a sample has none.
    """
    if not all(bool(flags.any()) for flags in chosen):
        _refuse(method, "chose no rater; choose at least one text token")
    return chosen


def _check_indices(method: Method, name: str, indices: object, device: torch.device) -> None:
    if not isinstance(indices, torch.Tensor) or indices.dtype != torch.int64 or indices.ndim != 1:
        _refuse(method, f"answered {name} as {_kind(indices)}; give a one-dimensional int64 tensor of indices")
    if indices.device != device:
        _refuse(method, f"answered {name} on {indices.device}; give it on {device}, where view.hidden is")


def _check_recycled(method: Method, recycled: object, view: View) -> None:
    if not isinstance(recycled, Recycled):
        _refuse(method, f"answered recycled as {_kind(recycled)}; give Recycled(values, centres, pool, labels)")
    for name in ("centres", "pool", "labels"):
        _check_indices(method, f"recycled.{name}", getattr(recycled, name), view.hidden.device)
    wanted = (len(recycled.centres), view.hidden.shape[-1])
    if (
        not isinstance(recycled.values, torch.Tensor)
        or recycled.values.shape != wanted
        or recycled.values.dtype != view.hidden.dtype
    ):
        row = f"one row for each centre, {wanted} of {view.hidden.dtype}"
        _refuse(method, f"answered recycled.values as {_kind(recycled.values)}; give {row}")
    if len(recycled.labels) != len(recycled.pool):
        _refuse(method, f"answered {len(recycled.labels)} labels for a pool of {len(recycled.pool)}; give one for each")


def _check_counts(method: Method, selection: Selection, view: View, present: int) -> None:
    kept = len(selection.keep)
    total = kept + (0 if selection.recycled is None else len(selection.recycled.centres))
    too_few = total < 1 if method.may_keep_none else kept < 1
    if too_few or total > present or (total > view.count if method.adaptive else total != view.count):
        allowed = f"at most {view.count}" if method.adaptive else f"exactly {view.count}"
        _refuse(method, f"answered {total} of {present} visual tokens ({kept} kept); {allowed} are allowed")


def _check_values(method: Method, selection: Selection, present: int, to_host: Reader) -> None:
    keep, recycled = to_host(selection.keep), selection.recycled
    if len(keep) and not bool((keep[1:] > keep[:-1]).all() & (keep[0] >= 0) & (keep[-1] < present)):
        _refuse(method, f"answered keep that does not ascend within 0..{present - 1}; sort it, each index once")
    if recycled is None:
        return
    places = [*keep.tolist(), *to_host(recycled.centres).tolist()]
    if not set(places) <= set(range(present)) or len(set(places)) < len(places):
        _refuse(method, f"answered centres that are kept too, are there twice, or lie outside 0..{present - 1}")
    pool = to_host(recycled.pool).tolist()
    if not set(pool) <= set(range(present)) - set(keep.tolist()) or len(set(pool)) < len(pool):
        _refuse(method, f"answered a pool of tokens that are kept, are there twice, or lie outside 0..{present - 1}")
    if not set(to_host(recycled.labels).tolist()) <= set(range(len(recycled.centres))):
        _refuse(method, f"answered labels outside 0..{len(recycled.centres) - 1}; each names a centre")


def _check_finite(method: Method, selection: Selection, view: View, to_host: Reader) -> None:
    if selection.recycled is not None:
        broken = ~selection.recycled.values.isfinite().all() & view.hidden.isfinite().all()
        if bool(to_host(broken)):
            _refuse(method, "answered recycled.values with numbers that are not finite")


def _kind(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of {value.dtype} and shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def _refuse(method: Method, what: str) -> Never:
    raise MethodError(f"{type(method).__name__} {what}.")
