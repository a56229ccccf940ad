"""Choices of published methods that share a budget among windows or strips: HoloV and VScan.

Leading dimensions are a batch.
"""

import torch

from sparsight.counts.layout import Grid
from sparsight.errors import MethodError
from sparsight.methods.parts.choosers import top_k
from sparsight.methods.parts.merging import count_members
from sparsight.methods.parts.quotas import (
    choose_in_groups,
    choose_in_windows,
    label_strips,
    label_windows,
    share_by_weight,
)
from sparsight.methods.parts.tensors import check_count, mark, normalise, take, widen


def choose_holov(
    attention: torch.Tensor, features: torch.Tensor, count: int, strips: int = 16
) -> torch.Tensor:
    """Return the tokens of highest attention in each strip, more of strips that matter and vary.

    Source: HoloV (arXiv 2510.02912), authors' code.
    Differs: what a strip cannot hold goes to others, where the code pads with zero vectors; tokens
    come in raster order.

    Args:
        attention: (..., N) float >= 0, of the class token, or received.
        features: (..., N, D) float, after the projector.
        count: K in 1..N.
        strips: C in 1..N/2; published `count_strips`.
    Returns: (..., K) int64, ascending.
    """
    labels = label_strips(attention.shape[-1], strips, attention.device)
    weight = score_strips(attention, features, strips)
    quotas = share_by_weight(weight, count, count_members(labels, strips))
    return choose_in_groups(attention, labels, quotas, count)


def count_strips(present: int, count: int) -> int:
    """Return HoloV's number of strips, 1024 / 576 of N / K rounded down, at least 1.

    Source: HoloV, authors' code for Qwen2.5-VL; that for LLaVA has 16 for 64 of 576 tokens, which
    are as many.

    Args:
        present: N.
        count: K in 1..N.
    """
    return max(1, 16 * present // (9 * count))


def score_strips(
    attention: torch.Tensor, features: torch.Tensor, strips: int, beta: float = 0.09
) -> torch.Tensor:
    """Return HoloV's score of each strip: mean attention plus how its tokens' likenesses vary.

    Source: HoloV, authors' code: attention times 1000, variance scaled to the attention's mean; a
    token's likeness to itself counts as 0 in its sum of squares.

    Args:
        attention: (..., N) float.
        features: (..., N, D) float.
        strips: C in 1..N/2, so that each strip has two tokens.
        beta: weight of the variance.
    Returns: (..., C) float32 or wider.
    Raises: MethodError: a strip would have fewer than two tokens.
    """
    present = attention.shape[-1]
    if not 1 <= strips <= present // 2:
        raise MethodError(
            f"{present} tokens are to be cut into {strips} strips; give 1..{present // 2} strips, "
            "as each needs two tokens."
        )
    longest, longer = -(-present // strips), present % strips
    # strips of unequal length are padded to the longest: (C, L) places and which of them are real
    places = torch.arange(longest, device=attention.device).expand(strips, -1)
    lengths = torch.full((strips, 1), present // strips, device=attention.device)
    lengths[:longer] += 1
    real = places < lengths
    places = (places + lengths.cumsum(dim=0) - lengths).clamp(max=present - 1).flatten()
    index = places.expand(*attention.shape[:-1], -1)
    shape = (*attention.shape[:-1], strips, longest)
    paid = 1000 * widen(attention).gather(-1, index).view(shape) * real
    units = take(normalise(features), index).view(*shape, -1) * real[..., None]
    alike = units @ units.transpose(-1, -2)  # (..., C, L, L)
    alike.diagonal(dim1=-2, dim2=-1).zero_()
    mean = alike.sum(dim=-1, keepdim=True) / (lengths[..., None] - 1)
    spread = ((alike - mean).square() * real[:, None, :]).sum(dim=-1)
    variance = spread / (lengths - 1) * real
    paid, variance = (part.sum(dim=-1) / lengths[:, 0] for part in (paid, variance))
    # the mean of attention plus scaled variance is the mean of one plus that of the other
    return paid + beta * variance * paid / (variance + 1e-6)


def choose_vscan(
    local: torch.Tensor, overall: torch.Tensor, count: int, grid: Grid, window: int = 6
) -> torch.Tensor:
    """Return tokens that an early block finds best within windows, and that a late one finds best.

    Source: VScan (arXiv 2505.22654), authors' code for Qwen: half of the tokens are local, each
    window gives at most its share, rounded up.
    Differs: the code for LLaVA rounds the share down and returns fewer tokens where half of
    `count` is no multiple of the windows; with equal shares both agree. Local tokens are excluded
    from the second half, where the code sets their score to 0.

    Args:
        local: (..., N) float, of the early block: attention of the class token, or received.
        overall: (..., N) float, of a late block.
        count: K in 1..N.
        grid: rows and columns, N = h w.
        window: side of a window; published 6 for LLaVA, 4 for Qwen.
    Returns: (..., K) int64, ascending.
    """
    check_count(count, local.shape[-1])
    windows = label_windows(grid, window, local.device)
    total = max(1, grid[0] // window) * max(1, grid[1] // window)
    chosen = choose_in_windows(local, windows, -(-(count // 2) // total), count // 2)
    taken = mark(chosen, local.shape[-1])
    return top_k(widen(overall).masked_fill(taken, float("inf")), count)
