"""Choices that published methods make at the encoder's output, composed of other parts.

FasterVLM needs no composition: it is `top_k` of the class token's attention. DivPrune is
`choose_max_min`, SCOPE `choose_coverage` with attention as factor. Leading dimensions are a batch.
"""

import torch

from sparsight.methods.parts.choosers import top_k
from sparsight.methods.parts.geometry import Similarity, compare
from sparsight.methods.parts.merging import Groups, group_contextual
from sparsight.methods.parts.tensors import (
    check_count,
    list_others,
    mark,
    rank_descending,
    widen,
    widest,
)


def choose_hiprune(
    object_score: torch.Tensor, deep_score: torch.Tensor, count: int, anchors: int, width: int
) -> torch.Tensor:
    """Return anchors of a middle block with their neighbours, and registers of a deep block.

    Source: HiPrune (arXiv 2508.00553), authors' code. Neighbours are i - 1, i + 1, i - width and
    i + width, clamped to the image; the ends of rows are not looked at.
    Differs: used tokens cannot be chosen again, which the Qwen variant of the code allows and so
    returns fewer. Where anchors and neighbours are more than `count`, which the code does not
    survive, the anchors stay, then the neighbours that the deep block finds best.

    Args:
        object_score: (..., N) float, attention received in the middle block.
        deep_score: (..., N) float, attention received in a late block.
        count: K in 1..N.
        anchors: number of anchors; the published alpha makes it `count_anchors`.
        width: columns of the grid.
    Returns: (..., K) int64, ascending.
    """
    present = deep_score.shape[-1]
    check_count(count, present)
    best = top_k(object_score, min(anchors, count))
    beside = torch.cat([best - 1, best + 1, best - width, best + width], dim=-1)
    beside = beside.clamp(0, present - 1)
    level = mark(beside, present).long().masked_fill(mark(best, present), 2)
    return top_k(level * present - rank_descending(deep_score), count)


def count_anchors(count: int, alpha: float = 0.1) -> int:
    """Return HiPrune's number of anchors, a fifth of the share alpha of `count`, half to even."""
    return round(count * alpha / 5)


def choose_vispruner(
    attention: torch.Tensor, features: torch.Tensor, count: int, important: int, step: int = 8
) -> torch.Tensor:
    """Return the tokens of highest attention, and of the others those left without look-alikes.

    Each round splits the others, in their present order, into even and odd places; the `step` even
    ones most like an odd one go, and the even ones that stay are sorted by falling likeness and put
    before the odd ones.

    Source: VisPruner (arXiv 2412.01818 v2), authors' code.
    Differs: an odd number of others, fewer than 8 even ones, and no diverse token at all work,
    where the code raises.
    The order decides each next round, so rounding decides the choice: about half of the diverse
    tokens differ between float32 and float64. Here likeness is compared in float64 where the device
    has it. No equality across dtypes and devices is promised.

    Args:
        attention: (..., N) float, of the class token.
        features: (..., N, D) float, the encoder's output before the projector.
        count: K in 1..N.
        important: tokens of highest attention among them; published: int(count * ratio).
        step: look-alikes that go in one round.
    Returns: (..., K) int64, ascending.
    """
    order = torch.sort(attention, dim=-1, descending=True, stable=True).indices
    check_count(count, attention.shape[-1])
    similarity = compare(features.to(widest(features.device))).hold()
    others = order[..., important : None if count > important else important]
    while others.shape[-1] > count - important:
        even, odd = others[..., ::2], others[..., 1::2]
        gone = min(step, others.shape[-1] - (count - important))
        alike = similarity.pairs(even, odd).amax(dim=-1)
        places = torch.sort(alike, dim=-1, descending=True, stable=True).indices
        others = torch.cat([even.gather(-1, places[..., gone:]), odd], dim=-1)
    return torch.cat([order[..., :important], others], dim=-1).sort(dim=-1).values


def choose_visionzip(
    attention: torch.Tensor, similarity: Similarity, dominant: int, contextual: int
) -> Groups:
    """Return the patches of highest attention, and anchors that the others are folded into.

    Source: VisionZip (arXiv 2412.04467), authors' code; `merge_contextual` makes the tokens.
    Differs: the class token, which the code counts as one of the dominant tokens and hands on, is
    not among the N patches: give `dominant` without it.

    Args:
        attention: (..., N) float, of the class token.
        similarity: (..., N, N), of the encoder's keys, mean over heads.
        dominant: patches that stay as they are.
        contextual: anchors, at most N - dominant.
    """
    return group_contextual(similarity, top_k(attention, dominant), contextual)


def count_outliers(attention: torch.Tensor, bound: float = 1.5) -> torch.Tensor:
    """Return how many tokens lie above the third quartile by `bound` interquartile ranges.

    Source: PruMerge (arXiv 2403.15388), with quartiles interpolated linearly.
    Differs: at least one, without which PruMerge keeps a single merged token and PruMerge+ divides
    by zero.

    Args: attention: (..., N) float.
    Returns: (...) int64.
    """
    wide = widen(attention)
    low, high = (_quantile(wide, share) for share in (0.25, 0.75))
    return (wide > high + bound * (high - low)).sum(dim=-1).clamp_min(1)


def _quantile(values: torch.Tensor, share: float) -> torch.Tensor:
    # torch.quantile refuses more than 2^24 numbers
    ordered = values.sort(dim=-1).values
    place = share * (values.shape[-1] - 1)
    below = int(place)
    above = min(below + 1, values.shape[-1] - 1)
    between = ordered[..., below] + (place - below) * (ordered[..., above] - ordered[..., below])
    return between[..., None]


def choose_prumerge(attention: torch.Tensor, important: int, spread: int = 0) -> torch.Tensor:
    """Return the tokens of highest attention, then tokens spread evenly over the others.

    Source: PruMerge (arXiv 2403.15388) with a fixed number of important tokens; the spread ones are
    PruMerge+'s.
    Differs: PruMerge+ takes every n-th place of the image that is not important yet, a count that
    depends on the image; here `spread` of the others, each the middle of a stretch of equal length,
    so that any count is met exactly. `choose_prumerge_plus` does as published.

    Args:
        attention: (..., N) float, of the class token with one head as wide as the encoder.
        important: tokens of highest attention.
        spread: tokens spread over the others.
    Returns: (..., important + spread) int64: by falling attention, then the spread ones ascending.
    """
    order = torch.sort(attention, dim=-1, descending=True, stable=True).indices[..., :important]
    others = list_others(order, attention.shape[-1])
    steps = torch.arange(spread, device=order.device)
    middles = (2 * steps + 1) * others.shape[-1] // (2 * max(spread, 1))
    return torch.cat([order, others[..., middles]], dim=-1)


def choose_prumerge_plus(attention: torch.Tensor, important: int) -> torch.Tensor:
    """Return one image's tokens of highest attention, then every n-th place not yet chosen.

    Source: PruMerge+ (arXiv 2403.15388), authors' code: n is int(int(N / important) / 3).
    Differs: n is at least 1, where the code raises.

    Args:
        attention: (N,) float, of one image, as the count depends on it.
        important: `count_outliers` of it.
    Returns: (K,) int64: by falling attention, then the others ascending.
    """
    present = attention.shape[-1]
    order = torch.sort(attention, descending=True, stable=True).indices[:important]
    step = max(1, int(1 / (important / present)) // 3)
    places = torch.arange(0, present - 1, step, device=attention.device)
    return torch.cat([order, places[~mark(order, present)[places]]])
