"""Tools of the other parts: wide numbers, gathered rows, sets of indices, in batches."""

import torch

from sparsight.errors import MethodError


def widen(values: torch.Tensor) -> torch.Tensor:
    """Return values in float32, or in their own dtype where that is wider."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def widest(device: torch.device) -> torch.dtype:
    """Return the widest float dtype of a device: float32 on Apple's GPUs, float64 elsewhere."""
    return torch.float32 if device.type == "mps" else torch.float64


def normalise(points: torch.Tensor) -> torch.Tensor:
    """Return points (..., D) scaled to length 1, in float32 or wider; a zero vector stays zero."""
    wide = widen(points)
    return wide / measure_length(wide)


def measure_length(points: torch.Tensor) -> torch.Tensor:
    """Return the lengths, (..., 1), of points (..., D); of a zero vector the smallest number."""
    length: torch.Tensor = torch.linalg.vector_norm(points, dim=-1, keepdim=True)
    return length.clamp_min(torch.finfo(points.dtype).tiny)


def take(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the chosen rows of every sample.

    Args:
        values: (..., N, D).
        index: (..., K) int64 in 0..N-1.
    Returns: (..., K, D).
    """
    return values.gather(-2, index[..., None].expand(*index.shape, values.shape[-1]))


def check_count(count: int, present: int) -> None:
    """Raise MethodError unless a number of tokens to choose lies in 1..present."""
    if not 1 <= count <= present:
        raise MethodError(
            f"{count} tokens are to be chosen of {present}; give a count of 1..{present}."
        )


def mark(index: torch.Tensor, present: int) -> torch.Tensor:
    """Return (..., N) bool, True at the indices (..., K); an index may be there twice."""
    flags = torch.zeros(*index.shape[:-1], present, dtype=torch.bool, device=index.device)
    return flags.scatter(-1, index, True)


def list_marked(flags: torch.Tensor, count: int) -> torch.Tensor:
    """Return the places of True in ascending order, where every sample has exactly `count` of them.

    Unlike `nonzero`, it does not wait for the device.

    Args:
        flags: (..., N) bool.
        count: K.
    Returns: (..., K) int64.
    """
    return torch.sort((~flags).byte(), dim=-1, stable=True).indices[..., :count]


def list_others(keep: torch.Tensor, present: int) -> torch.Tensor:
    """Return the tokens that are not kept, ascending.

    Args:
        keep: (..., K) int64 in 0..N-1, each once.
        present: N.
    Returns: (..., N - K) int64.
    """
    return list_marked(~mark(keep, present), present - keep.shape[-1])


def rank_descending(score: torch.Tensor) -> torch.Tensor:
    """Return each token's place by falling score, 0 for the highest; of equal ones the first.

    Args: score: (..., N).
    Returns: (..., N) int64, a permutation of 0..N-1.
    """
    order = torch.sort(score, dim=-1, descending=True, stable=True).indices
    places = torch.arange(score.shape[-1], device=score.device).expand_as(order)
    return torch.empty_like(order).scatter(-1, order, places)
