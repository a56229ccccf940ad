"""Pure choosers: which visual tokens to keep, given scores. Leading dimensions are a batch. Knows tensors, no model."""

import torch


def top_k(score: torch.Tensor, count: int, images: torch.Tensor | None = None) -> torch.Tensor:
    """Return the `count` highest scores' indices, ascending; of equal scores the lower index wins.

    Differs: where `images` is given and `count` allows it, every image keeps its best token, so
    that none disappears.

    Args:
        score: (..., V) float, higher is kept.
        count: tokens to keep, in 1..V.
        images: (..., V) int64 image of each token, ascending from 0 without gaps.
    Returns: (..., count) int64.
    """
    if images is not None:
        score = _raise_best_of_each(score, count, images)
    order = torch.sort(score, dim=-1, descending=True, stable=True).indices
    return order[..., :count].sort(dim=-1).values


def _raise_best_of_each(score: torch.Tensor, count: int, images: torch.Tensor) -> torch.Tensor:
    # images that are gone leave gaps, so the runs are numbered anew
    runs = (images.diff(dim=-1) != 0).long().cumsum(-1)
    images = torch.cat([torch.zeros_like(images[..., :1]), runs], dim=-1)
    total = images[..., -1:] + 1  # a tensor: reading it would wait for the device
    visual = images.shape[-1]
    best = torch.full_like(score, float("-inf")).scatter_reduce(-1, images, score, "amax")
    first = torch.full_like(images, visual)
    index = torch.arange(visual, device=images.device).expand_as(images)
    top = score == best.gather(-1, images)
    first = first.scatter_reduce(-1, images, torch.where(top, index, visual), "amin")
    protected = (index == first.gather(-1, images)) & (total <= count)
    return torch.where(protected, float("inf"), score)


def numerical_rank(matrix: torch.Tensor, tolerance: float | None = None) -> int:
    """Count singular values above `tolerance` times the largest.

    Source: SparseVLM eq. 8 takes the rank of the rater attention and names no threshold.
    Differs: the threshold is max(R, V) times the float32 epsilon unless given, as in numpy and
    torch.

    Args: matrix: (R, V) float.
    """
    relative = (
        max(matrix.shape) * torch.finfo(torch.float32).eps if tolerance is None else tolerance
    )
    singular = torch.linalg.svdvals(matrix.double())
    return int((singular > relative * singular[0]).sum())
