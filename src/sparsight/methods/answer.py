"""Checks of what a method answers, so that a mistake in an own method is named when it happens.

Kinds, shapes and counts are known on the host. What the indices are costs a wait for the device, so
on devices other than the CPU indices are read only where the method's `select` does not ship with
sparsight.
"""

from collections.abc import Callable
from typing import Never

import torch

from sparsight.counts.schedule import Schedule
from sparsight.errors import MethodError
from sparsight.methods.encoder import EncoderNeed
from sparsight.methods.method import Method
from sparsight.methods.view import Recycled, Selection, View, add_group, drop_group

SHIPPED = "sparsight."

Reader = Callable[[torch.Tensor], torch.Tensor]


def select_tokens(method: Method, view: View, to_host: Reader) -> Selection:
    """Return a method's answer for a group, checked.

    Args: to_host: reads a tensor on the host and counts the wait.
    Raises: MethodError: the answer is none; the method is wrong, not the input.
    """
    if method.batched:
        return check_selection(method.select(view), method, view, to_host)
    sample = drop_group(view)
    return add_group(check_selection(method.select(sample), method, sample, to_host))


def check_selection(selection: object, method: Method, view: View, to_host: Reader) -> Selection:
    """Return what `select` answered to a view, a group or one sample, if it is an answer to it.

    An answer holds as many tokens as were planned, each of them there and each once.

    Raises: MethodError: it is none.
    """
    if not isinstance(selection, Selection):
        shape = "(G, K)" if view.hidden.ndim == 3 else "(K,)"
        _refuse(
            method,
            f"answered a {type(selection).__name__}; return Selection(keep), with {shape} indices "
            "to keep",
        )
    _check_indices(method, "keep", selection.keep, view)
    if selection.recycled is not None:
        _check_recycled(method, selection.recycled, view)
    if selection.score is not None:
        _check_score(method, selection.score, view)
    _check_counts(method, selection, view)
    if not str(type(method).select.__module__).startswith(SHIPPED):  # None in a bare exec()
        _check_values(method, selection, view.hidden.shape[-2], to_host)
        _check_finite(method, selection, view, to_host)
    elif view.hidden.device.type == "cpu":  # nothing to wait for, so nothing to count
        _check_values(method, selection, view.hidden.shape[-2], torch.Tensor.cpu)
    return selection


def check_plan(plan: object, method: Method, visual_tokens: int, layers: int) -> Schedule:
    """Return what `plan` answered, if it is a plan for a sample within what the class declares.

    Args:
        visual_tokens: V of the sample.
        layers: L of the decoder.
    Raises: MethodError: it is no schedule, or one for another sample or decoder; it has sites that
        the method does not list; or it holds upper bounds, a smaller grid for images or tokens to
        merge in the encoder, which the class does not declare.
    """
    if not isinstance(plan, Schedule):
        _refuse(method, f"planned {_describe(plan)}; return a Schedule")
    if (plan.visual_tokens, plan.layers) != (visual_tokens, layers):
        _refuse(
            method,
            f"planned for {plan.visual_tokens} visual tokens and {plan.layers} layers; plan for "
            f"{visual_tokens} and {layers}",
        )
    unlisted = sorted(set(plan.sites) - set(method.list_sites(layers)))
    if unlisted:
        _refuse(method, f"planned sites {unlisted}; have list_sites() return them too")
    if not plan.exact and not method.adaptive:
        _refuse(method, "planned upper bounds; set adaptive = True, or plan exact counts")
    if plan.image_grid is not None and not method.scales_images:
        _refuse(method, "planned smaller images; set scales_images = True, or leave image_grid out")
    if plan.merged is not None and EncoderNeed("merged") not in method.encoder_needs:
        _refuse(method, "planned merged tokens; declare the need 'merged', or leave merged out")
    return plan


def check_raters(chosen: object, method: Method, text: torch.Tensor) -> torch.Tensor:
    """Return a method's choice of raters, (T,) bool, if it is one.

    Args: text: (T, D) input embeddings of the text tokens.
    Raises: MethodError: it is no bool tensor of this shape.
    """
    wanted = f"a bool tensor of shape ({len(text)},)"
    if not isinstance(chosen, torch.Tensor):
        _refuse(method, f"chose raters as {_describe(chosen)}; return {wanted}")
    if chosen.dtype != torch.bool or chosen.shape != (len(text),):
        _refuse(method, f"chose raters as {_describe(chosen)}; return {wanted}")
    return chosen


def check_any_rater(chosen: tuple[torch.Tensor, ...], method: Method) -> tuple[torch.Tensor, ...]:
    """Return each sample's raters, (T,) bool on the host, if every sample has at least one.

    Raises: MethodError: a sample has none.
    """
    if not all(bool(flags.any()) for flags in chosen):
        _refuse(method, "chose no rater; choose at least one text token")
    return chosen


def _check_indices(method: Method, name: str, indices: object, view: View) -> None:
    """Check dtype, shape and device of one tensor of indices."""
    lead = view.hidden.shape[:-2]  # (G,) for a group, () for one sample
    wanted = "int64 (n,)"
    if lead:
        wanted = "an int64 tensor (G, n), one row for each sample, or set batched = False"
    if not isinstance(indices, torch.Tensor):
        _refuse(method, f"answered {name} as {_describe(indices)}; give {wanted}")
    if indices.dtype != torch.int64 or indices.ndim != len(lead) + 1:
        _refuse(method, f"answered {name} as {_describe(indices)}; give {wanted}")
    if indices.shape[:-1] != lead:
        wanted = f"{lead[0]} rows, one for each sample"
        _refuse(method, f"answered {name} as {_describe(indices)}; give {wanted}")
    device = view.hidden.device
    if indices.device != device:
        _refuse(
            method,
            f"answered {name} on {indices.device}; give it on {device}, where view.hidden is",
        )


def _check_recycled(method: Method, recycled: object, view: View) -> None:
    """Check kinds, dtypes and shapes of recycled tokens."""
    if not isinstance(recycled, Recycled):
        wanted = "Recycled(values, centres, pool, labels)"
        _refuse(method, f"answered recycled as {_describe(recycled)}; give {wanted}")
    for name in ("centres", "pool", "labels"):
        _check_indices(method, f"recycled.{name}", getattr(recycled, name), view)
    values, dtype = recycled.values, view.hidden.dtype
    shape = (*recycled.centres.shape, view.hidden.shape[-1])
    is_tensor = isinstance(values, torch.Tensor)
    if not is_tensor or values.shape != shape or values.dtype != dtype:
        wanted = f"one row for each centre, {shape} of {dtype}"
        _refuse(method, f"answered recycled.values as {_describe(values)}; give {wanted}")
    labels, pool = recycled.labels.shape[-1], recycled.pool.shape[-1]
    if labels != pool:
        _refuse(method, f"answered {labels} labels for a pool of {pool}; give one for each")


def _check_score(method: Method, score: object, view: View) -> None:
    """Check that there is one score for each visual token."""
    if not isinstance(score, torch.Tensor) or score.shape != view.hidden.shape[:-1]:
        wanted = "one number for each visual token, or None"
        _refuse(method, f"answered score as {_describe(score)}; give {wanted}")


def _check_counts(method: Method, selection: Selection, view: View) -> None:
    """Check that as many tokens leave the site as were planned."""
    kept, present = selection.keep.shape[-1], view.hidden.shape[-2]
    recycled = 0
    if selection.recycled is not None:
        recycled = selection.recycled.centres.shape[-1]
    total = kept + recycled
    wrong = total != view.count if view.exact else total > view.count
    if total < 1 or wrong or total > present:
        allowed = f"exactly {view.count}" if view.exact else f"at most {view.count}"
        _refuse(
            method,
            f"answered {total} of {present} visual tokens ({kept} kept); {allowed} are allowed",
        )


def _check_values(method: Method, selection: Selection, present: int, to_host: Reader) -> None:
    """Check that every index lies within the V tokens present and is there once."""
    keep, recycled = to_host(selection.keep), selection.recycled
    most = present - 1
    if not _are_distinct(keep, present, ascending=True):
        _refuse(
            method, f"answered keep that does not ascend within 0..{most}; sort it, each index once"
        )
    if recycled is None:
        return
    if not _are_distinct(torch.cat([keep, to_host(recycled.centres)], dim=-1), present):
        _refuse(
            method,
            f"answered centres that are kept too, are there twice, or lie outside 0..{most}",
        )
    if not _are_distinct(torch.cat([keep, to_host(recycled.pool)], dim=-1), present):
        _refuse(
            method,
            f"answered a pool of tokens that are kept, are there twice, or lie outside 0..{most}",
        )
    labels, clusters = to_host(recycled.labels), recycled.centres.shape[-1]
    if not bool((labels >= 0).all() & (labels < clusters).all()):
        _refuse(method, f"answered labels outside 0..{clusters - 1}; each names a centre")


def _are_distinct(indices: torch.Tensor, present: int, *, ascending: bool = False) -> bool:
    """Return whether indices on the host lie within 0..present-1, each once in its row.

    Args:
        indices: (..., n).
        ascending: whether each row must ascend as it is.
    """
    ordered = indices if ascending else indices.sort(dim=-1).values
    inside = (indices >= 0).all() & (indices < present).all()
    return bool((ordered[..., 1:] > ordered[..., :-1]).all() & inside)


def _check_finite(method: Method, selection: Selection, view: View, to_host: Reader) -> None:
    """Check that recycled tokens are finite if the hidden states that they are made of are."""
    if selection.recycled is not None:
        broken = ~selection.recycled.values.isfinite().all() & view.hidden.isfinite().all()
        if bool(to_host(broken)):
            _refuse(method, "answered recycled.values with numbers that are not finite")


def _describe(value: object) -> str:
    """Return what a value is, for a message."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of {value.dtype} and shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def _refuse(method: Method, mistake: str) -> Never:
    """Raise MethodError that says which method made which mistake."""
    raise MethodError(f"{type(method).__name__} {mistake}.")
