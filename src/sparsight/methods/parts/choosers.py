"""Pure choosers: which visual tokens to keep, given scores. Knows tensors, no model and no method."""

import torch


def top_k(score: torch.Tensor, count: int, images: torch.Tensor | None = None) -> torch.Tensor:
    """Return the `count` highest scores' indices, ascending; of equal scores the lower index wins.

    Differs: where `images` is given and `count` allows it, every image keeps its best token, so that none disappears.

    Args:
        score: (V,) float, higher is kept.
        count: tokens to keep, in 1..V.
        images: (V,) int64 image of each token, ascending from 0 without gaps.
    Returns: (count,) int64.
    """
    if images is not None:
        score = _raise_best_of_each(score, count, images)
    order = torch.sort(score, descending=True, stable=True).indices
    return order[:count].sort().values


def _raise_best_of_each(score: torch.Tensor, count: int, images: torch.Tensor) -> torch.Tensor:
    # images that are gone leave gaps, so the runs are numbered anew
    images = torch.cat([torch.zeros_like(images[:1]), (images.diff() != 0).long().cumsum(0)])
    total = images[-1] + 1  # a tensor: reading it would wait for the device
    best = torch.full_like(score, float("-inf")).scatter_reduce(0, images, score, "amax")
    first = torch.full_like(images, images.numel())
    index = torch.arange(images.numel(), device=images.device)
    top = score == best[images]
    first = first.scatter_reduce(0, images, torch.where(top, index, images.numel()), "amin")
    protected = (index == first[images]) & (total <= count)
    return torch.where(protected, float("inf"), score)


def numerical_rank(matrix: torch.Tensor, tolerance: float | None = None) -> int:
    """Count singular values above `tolerance` times the largest.

    Source: SparseVLM eq. 8 takes the rank of the rater attention and names no threshold.
    Differs: the threshold is max(R, V) times the float32 epsilon unless given, as in numpy and torch.

    Args: matrix: (R, V) float.
    """
    relative = max(matrix.shape) * torch.finfo(torch.float32).eps if tolerance is None else tolerance
    singular = torch.linalg.svdvals(matrix.double())
    return int((singular > relative * singular[0]).sum())
