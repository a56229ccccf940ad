"""Choices that published methods make at the encoder's output, composed of other parts.

FasterVLM needs no composition: it is `top_k` of the class token's attention. DivPrune is
`choose_max_min`, SCOPE `choose_coverage` with attention as factor. Leading dimensions are a batch.
"""

import torch

from sparsight.methods.parts.choosers import top_k
from sparsight.methods.parts.geometry import Similarity, compare
from sparsight.methods.parts.merging import Groups, group_contextual
from sparsight.methods.parts.tensors import mark, rank_descending, widest


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
    best = top_k(object_score, min(anchors, count))
    steps = torch.tensor([-1, 1, -width, width], device=best.device)
    beside = (best[..., None] + steps).clamp(0, present - 1).flatten(-2)
    level = mark(beside, present).long().masked_fill(mark(best, present), 2)
    return top_k(level * present - rank_descending(deep_score), count)


def count_anchors(count: int, alpha: float = 0.1) -> int:
    """Return HiPrune's number of anchors, a fifth of the share alpha of `count`, half to even."""
    return round(count * alpha / 5)


def choose_vispruner(
    attention: torch.Tensor, features: torch.Tensor, count: int, important: int, step: int = 8
) -> torch.Tensor:
    """Return the tokens of highest attention, and of the others those left when look-alikes are gone.

    Each round splits the others, in their present order, into even and odd places; the `step` even
    ones most like an odd one go, and the even ones that stay are sorted by falling likeness and put
    before the odd ones.

    Source: VisPruner (arXiv 2412.01818 v2), authors' code.
    Differs: an odd number of others and fewer than 8 even ones work, where the code raises.
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
    similarity = compare(features.to(widest(features.device))).hold()
    others = order[..., important:]
    while others.shape[-1] > count - important:
        even, odd = others[..., ::2], others[..., 1::2]
        gone = min(step, others.shape[-1] - (count - important), even.shape[-1])
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
