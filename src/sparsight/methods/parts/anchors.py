"""Anchors that dropped tokens are merged into: like many others, and unlike each other (RESTORE).

Leading dimensions are a batch.
"""

from typing import Literal

import torch

from sparsight.methods.parts.geometry import Similarity, compare
from sparsight.methods.parts.merging import Groups, assign_to_nearest, count_members
from sparsight.methods.parts.tensors import check_count, list_others, take

AnchorForm = Literal["paper", "code"]
EQUAL = 1 - 1e-5  # cosine from which two tokens are the same, whatever rounding says


def choose_anchors(similarity: Similarity, count: int, form: AnchorForm = "code") -> torch.Tensor:
    """Return tokens that are like many others and unlike each other, by falling score.

    A token's density is the sum of its row. Its score is the density times 1 minus the highest
    similarity to a denser token ("paper") or to one less dense ("code", 0 where there is none).

    Source: RESTORE (arXiv 2606.01711). Paper and released code differ in the comparison and choose
    almost different anchors; published numbers probably come from the code.
    Differs: the densest token, which is compared to none in the paper's form, always is an anchor.
        Of tokens that are equal, as row ends are, rounding would choose the denser one: here the
        first counts as such, and the others score 0.

    Args:
        similarity: (..., N, N).
        count: C in 1..N.
        form: which tokens are compared.
    Returns: (..., C) int64; of equal scores the first comes first.
    """
    check_count(count, similarity.shape[-1])
    density = torch.cat([block.sum(dim=-1) for _, block in similarity.blocks()], dim=-1)
    highest, index = [], torch.arange(density.shape[-1], device=density.device)
    for first, block in similarity.blocks():
        rows = slice(first, first + block.shape[-2])
        own, other = density[..., rows, None], density[..., None, :]
        compared = other > own if form == "paper" else other < own
        compared = torch.where(block > EQUAL, index < index[rows, None], compared)
        highest.append(block.masked_fill(~compared, float("-inf")).amax(dim=-1))
    nearest = torch.cat(highest, dim=-1)
    alone = nearest == float("-inf")
    score = density * (1 - nearest.masked_fill(alone, 0.0)).masked_fill(nearest > EQUAL, 0.0)
    if form == "paper":
        score = score.masked_fill(alone, float("inf"))
    return torch.sort(score, dim=-1, descending=True, stable=True).indices[..., :count]


def find_lower_median(labels: torch.Tensor, values: torch.Tensor, clusters: int) -> torch.Tensor:
    """Return the lower median of each group's values.

    Source: RESTORE: the position of a merged token among its members' original ones.

    Args:
        labels: (..., N) int64 in 0..C-1, every group non-empty.
        values: (..., N) int64, such as positions.
        clusters: C.
    Returns: (..., C) int64.
    """
    by_value = values.sort(dim=-1, stable=True)
    by_group = labels.gather(-1, by_value.indices).sort(dim=-1, stable=True)
    size = count_members(labels, clusters)
    middle = size.cumsum(dim=-1) - size + (size - 1) // 2
    return by_value.values.gather(-1, by_group.indices.gather(-1, middle))


def group_by_anchors(
    points: torch.Tensor,
    keep: torch.Tensor,
    count: int,
    form: AnchorForm = "code",
    images: torch.Tensor | None = None,
) -> Groups:
    """Return anchors among the tokens not kept, and which of these are most like which anchor.

    Source: RESTORE (arXiv 2606.01711): any method keeps half of the budget, the anchors are the
    other half; a merged token is its group's mean, stands at `find_lower_median` of its positions
    and counts as `count_members` in `bias_of_sizes`.
    Differs: with `images`, a token joins an anchor of its own image where there is one.

    Args:
        points: (..., N, D) float.
        keep: (..., K) int64, ascending.
        count: anchors, in 1..N - K.
        form: as of `choose_anchors`.
        images: (..., N) int64, image of each token; None if they are all of one.
    """
    pool = list_others(keep, points.shape[-2])
    similarity = compare(take(points, pool))
    anchors = choose_anchors(similarity, count, form)
    own = None if images is None else images.gather(-1, pool)
    labels = assign_to_nearest(similarity, anchors, own)
    return Groups(keep, pool.gather(-1, anchors), pool, labels)
