"""Checks of what a method answers, so that a mistake in an own method is named and never shows as a wrong answer.

Kinds, shapes and counts are known on the host. What the indices are costs a wait for the device, so
on other devices than the CPU they are looked at only where the method's `select` does not ship with
sparsight.
"""

from collections.abc import Callable
from typing import Never

import torch

from sparsight.counts.schedule import Schedule
from sparsight.errors import MethodError
from sparsight.methods.method import Method
from sparsight.methods.view import Recycled, Selection, View, grouped, single

SHIPPED = "sparsight."

Reader = Callable[[torch.Tensor], torch.Tensor]


def selected(method: Method, view: View, to_host: Reader) -> Selection:
    """Return a method's answer for a group, if it is one: as many tokens as were promised, each there and each once.

    Args: to_host: reads a tensor on the host and counts the wait.
    Raises: MethodError: it is none; the method is wrong, not the input.
    """
    if type(method).batched:
        return check_selection(method.select(view), method, view, to_host)
    seen = single(view)
    return grouped(check_selection(method.select(seen), method, seen, to_host))


def check_selection(selection: object, method: Method, view: View, to_host: Reader) -> Selection:
    """Return what a method answered if it is an answer to what it was shown, a group or one sample.

    Raises: MethodError: it is none.
    """
    if not isinstance(selection, Selection):
        shape = "(G, K)" if view.hidden.ndim == 3 else "(K,)"
        _refuse(
            method,
            f"answered a {type(selection).__name__}; return Selection(keep), with {shape} indices to keep",
        )
    _check_indices(method, "keep", selection.keep, view)
    if selection.recycled is not None:
        _check_recycled(method, selection.recycled, view)
    score = selection.score
    if score is not None and (
        not isinstance(score, torch.Tensor) or score.shape != view.hidden.shape[:-1]
    ):
        _refuse(
            method,
            f"answered score as {_kind(score)}; give one number for each visual token, or None",
        )
    _check_counts(method, selection, view)
    if not type(method).select.__module__.startswith(SHIPPED):
        _check_values(method, selection, view.hidden.shape[-2], to_host)
        _check_finite(method, selection, view, to_host)
    elif view.hidden.device.type == "cpu":
        _check_values(
            method, selection, view.hidden.shape[-2], torch.Tensor.cpu
        )  # nothing to wait for
    return selection


def check_plan(plan: object, method: Method, visual_tokens: int, layers: int) -> Schedule:
    """Return a method's plan for one sample if it is one, and asks for no more than the class declares.

    Raises: MethodError: it is none, or not for this sample and decoder; it has sites that the
        method does not list; or it is not exact or scales images, and the class declares neither.
    """
    if not isinstance(plan, Schedule):
        _refuse(method, f"planned {_kind(plan)}; return a Schedule")
    if (plan.visual_tokens, plan.layers) != (visual_tokens, layers):
        _refuse(
            method,
            f"planned for {plan.visual_tokens} visual tokens and {plan.layers} layers; plan for "
            f"{visual_tokens} and {layers}",
        )
    others = sorted(set(plan.sites) - set(method.list_sites(layers)))
    if others:
        _refuse(method, f"planned sites {others}; have list_sites() return them too")
    if not plan.exact and not method.adaptive:
        _refuse(method, "planned upper bounds; set adaptive = True, or plan exact counts")
    if plan.image_grid is not None and not method.scales_images:
        _refuse(method, "planned smaller images; set scales_images = True, or leave image_grid out")
    return plan


def check_raters(chosen: object, method: Method, text: torch.Tensor) -> torch.Tensor:
    """Return a method's choice of raters if it is one: (T,) bool.

    Raises: MethodError: it is not.
    """
    if (
        not isinstance(chosen, torch.Tensor)
        or chosen.dtype != torch.bool
        or chosen.shape != (len(text),)
    ):
        _refuse(
            method, f"chose raters as {_kind(chosen)}; return a bool tensor of shape ({len(text)},)"
        )
    return chosen


def check_some(chosen: tuple[torch.Tensor, ...], method: Method) -> tuple[torch.Tensor, ...]:
    """Return each sample's raters, (T,) bool on the host, if there are any.

    Raises: MethodError: a sample has none.
    """
    if not all(bool(flags.any()) for flags in chosen):
        _refuse(method, "chose no rater; choose at least one text token")
    return chosen


def _check_indices(method: Method, name: str, indices: object, view: View) -> None:
    lead = view.hidden.shape[:-2]
    if (
        not isinstance(indices, torch.Tensor)
        or indices.dtype != torch.int64
        or indices.ndim != len(lead) + 1
    ):
        wanted = (
            "an int64 tensor (G, n), one row for each sample, or set batched = False"
            if lead
            else "int64 (n,)"
        )
        _refuse(method, f"answered {name} as {_kind(indices)}; give {wanted}")
    if indices.shape[:-1] != lead:
        _refuse(
            method, f"answered {name} as {_kind(indices)}; give {lead[0]} rows, one for each sample"
        )
    if indices.device != view.hidden.device:
        place = view.hidden.device
        _refuse(
            method, f"answered {name} on {indices.device}; give it on {place}, where view.hidden is"
        )


def _check_recycled(method: Method, recycled: object, view: View) -> None:
    if not isinstance(recycled, Recycled):
        _refuse(
            method,
            f"answered recycled as {_kind(recycled)}; give Recycled(values, centres, pool, labels)",
        )
    for name in ("centres", "pool", "labels"):
        _check_indices(method, f"recycled.{name}", getattr(recycled, name), view)
    values, wanted = recycled.values, (*recycled.centres.shape, view.hidden.shape[-1])
    if (
        not isinstance(values, torch.Tensor)
        or values.shape != wanted
        or values.dtype != view.hidden.dtype
    ):
        row = f"one row for each centre, {wanted} of {view.hidden.dtype}"
        _refuse(method, f"answered recycled.values as {_kind(values)}; give {row}")
    labels, pool = recycled.labels.shape[-1], recycled.pool.shape[-1]
    if labels != pool:
        _refuse(method, f"answered {labels} labels for a pool of {pool}; give one for each")


def _check_counts(method: Method, selection: Selection, view: View) -> None:
    kept, present = selection.keep.shape[-1], view.hidden.shape[-2]
    total = kept + (0 if selection.recycled is None else selection.recycled.centres.shape[-1])
    # where the plan keeps none, as Pool's does, every token that leaves is a rebuilt one
    too_few = (kept if view.keep_count else total) < 1
    wrong = total != view.count if view.exact else total > view.count
    if too_few or wrong or total > present:
        allowed = f"exactly {view.count}" if view.exact else f"at most {view.count}"
        _refuse(
            method,
            f"answered {total} of {present} visual tokens ({kept} kept); {allowed} are allowed",
        )


def _check_values(method: Method, selection: Selection, present: int, to_host: Reader) -> None:
    keep, recycled = to_host(selection.keep), selection.recycled
    if not _apart(keep, present, ascending=True):
        _refuse(
            method,
            f"answered keep that does not ascend within 0..{present - 1}; sort it, each index once",
        )
    if recycled is None:
        return
    if not _apart(torch.cat([keep, to_host(recycled.centres)], dim=-1), present):
        _refuse(
            method,
            f"answered centres that are kept too, are there twice, or lie outside 0..{present - 1}",
        )
    if not _apart(torch.cat([keep, to_host(recycled.pool)], dim=-1), present):
        _refuse(
            method,
            f"answered a pool of tokens that are kept, are there twice, or lie outside 0..{present - 1}",
        )
    labels, clusters = to_host(recycled.labels), recycled.centres.shape[-1]
    if not bool((labels >= 0).all() & (labels < clusters).all()):
        _refuse(method, f"answered labels outside 0..{clusters - 1}; each names a centre")


def _apart(places: torch.Tensor, present: int, *, ascending: bool = False) -> bool:
    """Return whether indices on the host, (..., n), are each there once in their row and lie within 0..present-1."""
    ordered = places if ascending else places.sort(dim=-1).values
    inside = (places >= 0).all() & (places < present).all()
    return bool((ordered[..., 1:] > ordered[..., :-1]).all() & inside)


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
