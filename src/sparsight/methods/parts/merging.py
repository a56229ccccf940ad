"""What becomes of tokens that are not kept: folded into clusters, anchors or kept tokens.

Knows tensors, no model and no method; leading dimensions are a batch.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from sparsight.methods.parts.geometry import Similarity
from sparsight.methods.parts.tensors import list_others, take, widen

Aggregate = Literal["mean", "sum"]


@dataclass(frozen=True)
class Groups:
    """Which tokens stay as they are, and which are folded into which.

    Args:
        keep: (..., K) int64, tokens that stay as they are, ascending.
        centres: (..., C) int64, the token whose place each group takes.
        pool: (..., P) int64, tokens of all groups, ascending; none of them is kept.
        labels: (..., P) int64 in 0..C-1, the group of each.
    """

    keep: torch.Tensor
    centres: torch.Tensor
    pool: torch.Tensor
    labels: torch.Tensor


def density_peaks(points: torch.Tensor, clusters: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cluster points around density peaks.

    Source: SparseVLM section 3.4 and authors' code (density-peak clustering, k nearest neighbours
    with k = clusters, the point itself included; distances squared over D in the density;
    assignment to the nearest centre).
    Differs: distances come from the Gram matrix, so memory is N x N and never N x N x D; the
    authors add random noise to break ties, here the lower index wins. The densest point's
    separation is the largest distance of all, as in the code (the paper takes its own largest).

    Args:
        points: (..., N, D) float.
        clusters: C in 1..N, also the number of neighbours.
    Returns: centres (..., C) int64 in descending order of peak score, and labels (..., N) int64 in
    0..C-1.
    """
    distance = pairwise_distances(points)  # (..., N, N)
    nearest = distance.topk(clusters, dim=-1, largest=False).values
    density = torch.exp(-(nearest**2).mean(dim=-1))  # (..., N)
    # a point is denser than another if its density is higher, or equal at a lower index
    index = torch.arange(points.shape[-2], device=points.device)
    here, other = density[..., :, None], density[..., None, :]
    denser = (other > here) | ((other == here) & (index[None, :] < index[:, None]))
    separation = torch.where(denser, distance, distance.amax((-2, -1), keepdim=True)).amin(dim=-1)
    peaks = torch.sort(separation * density, dim=-1, descending=True, stable=True).indices
    centres = peaks[..., :clusters]
    own = centres[..., None].expand(*centres.shape, distance.shape[-1])
    labels = distance.gather(-2, own).argmin(dim=-2)
    return centres, labels.scatter(
        -1, centres, torch.arange(clusters, device=points.device).expand_as(centres)
    )


def pairwise_distances(points: torch.Tensor) -> torch.Tensor:
    """Return (..., N, N) Euclidean distances over sqrt(D), at least in float32.

    They are computed from the Gram matrix. Points are centred first: it changes no distance and
    keeps the subtraction of large squares exact enough. The result is symmetric bit for bit: two
    points that are each other's nearest are equally dense, and a product that rounds (a, b) and
    (b, a) differently would break that tie by chance.
    """
    wide = points.to(torch.promote_types(points.dtype, torch.float32))
    wide = wide - wide.mean(dim=-2, keepdim=True)
    square = (wide * wide).sum(dim=-1)
    gram = wide @ wide.transpose(-1, -2)
    gram = (gram + gram.transpose(-1, -2)) / 2
    squared = (square[..., :, None] + square[..., None, :] - 2 * gram).clamp_min(0.0)
    squared.diagonal(dim1=-2, dim2=-1).fill_(0.0)
    return (squared / points.shape[-1]).sqrt()


def merge(
    points: torch.Tensor, labels: torch.Tensor, clusters: int, aggregate: Aggregate
) -> torch.Tensor:
    """Fold each cluster into one token.

    Source: "sum" is the paper's equation, "mean" is the authors' code.

    Args:
        points: (..., N, D) float.
        labels: (..., N) int64 in 0..C-1.
    Returns: (..., C, D), dtype of `points`.
    """
    wide = points.to(torch.promote_types(points.dtype, torch.float32))
    lead, width = points.shape[:-2], points.shape[-1]
    total = wide.new_zeros(*lead, clusters, width).scatter_add(
        -2, labels[..., None].expand(*labels.shape, width), wide
    )
    if aggregate == "mean":
        size = wide.new_zeros(*lead, clusters).scatter_add(
            -1, labels, torch.ones_like(wide[..., 0])
        )
        total = total / size[..., None]
    return total.to(points.dtype)


def assign_to_nearest(
    similarity: Similarity, centres: torch.Tensor, images: torch.Tensor | None = None
) -> torch.Tensor:
    """Return for every token the centre that it is most like; a centre belongs to itself.

    Source: VisionZip (contextual anchors), VScan (kept tokens), RESTORE (anchors).

    Args:
        similarity: (..., N, N), cosines.
        centres: (..., C) int64, each once.
        images: (..., N) int64, image of each token, whose centres go before those of other images;
            None if it does not matter.
    Returns: (..., N) int64 in 0..C-1; of equally near centres the first.
    """
    like = similarity.rows(centres)  # (..., C, N)
    if images is not None:
        other = images.gather(-1, centres)[..., :, None] != images[..., None, :]
        like = like - 3.0 * other  # below every cosine
    labels = like.argmax(dim=-2)
    own = torch.arange(centres.shape[-1], device=labels.device).expand_as(centres)
    return labels.scatter(-1, centres, own)


def group_contextual(similarity: Similarity, keep: torch.Tensor, contextual: int) -> Groups:
    """Return every n-th of the tokens not kept as an anchor, and who is most like which anchor.

    Source: VisionZip (arXiv 2412.04467): anchors stand at 0, step, 2 step .. among the N' others,
    step = N' // contextual.

    Args:
        similarity: (..., N, N), of the encoder's keys, mean over heads.
        keep: (..., K) int64, ascending.
        contextual: C, at most N - K.
    """
    pool = list_others(keep, similarity.shape[-1])
    step = max(1, pool.shape[-1] // contextual)
    places = torch.arange(contextual, device=pool.device) * step
    centres = pool[..., places]
    labels = assign_to_nearest(similarity, centres).gather(-1, pool)
    return Groups(keep, centres, pool, labels)


def merge_contextual(points: torch.Tensor, groups: Groups) -> torch.Tensor:
    """Return each group's anchor plus the mean of its other members.

    Source: VisionZip's authors' code. The paper speaks of the group's mean; as coded, a token's
    length is up to twice that of others, and published numbers come from the code.

    Args:
        points: (..., N, D) float.
        groups: as `group_contextual` makes them.
    Returns: (..., C, D), dtype of `points`.
    """
    wide, anchors = widen(points), widen(take(points, groups.centres))
    count = groups.centres.shape[-1]
    total = merge(take(wide, groups.pool), groups.labels, count, "sum") - anchors
    size = count_members(groups.labels, count).to(wide.dtype) - 1
    return (anchors + total / size.clamp_min(1)[..., None]).to(points.dtype)


def count_members(labels: torch.Tensor, clusters: int) -> torch.Tensor:
    """Return (..., C) int64, how many labels (..., N) name each of the clusters 0..C-1."""
    size = labels.new_zeros(*labels.shape[:-1], clusters)
    return size.scatter_add(-1, labels, torch.ones_like(labels))


def merge_neighbours(
    points: torch.Tensor,
    similarity: Similarity,
    attention: torch.Tensor,
    keep: torch.Tensor,
    neighbours: int = 32,
) -> torch.Tensor:
    """Return each kept token plus its nearest others, kept ones included, weighted by attention.

    Source: PruMerge (arXiv 2403.15388), authors' code. The paper speaks of a weighted average over
    dropped tokens; as coded, it is a sum over all others whose weights are not normalised.

    Args:
        points: (..., N, D) float.
        similarity: (..., N, N), of the keys of the encoder's last block, heads not split.
        attention: (..., N) float, of the class token.
        keep: (..., K) int64.
        neighbours: in 0..N-1.
    Returns: (..., K, D), dtype of `points`.
    """
    alike = similarity.rows(keep).scatter(-1, keep[..., None], float("-inf"))  # (..., K, N)
    order = torch.sort(alike, dim=-1, descending=True, stable=True).indices[..., :neighbours]
    near = torch.zeros_like(alike).scatter(-1, order, 1.0)
    wide = widen(points)
    added = (near * attention[..., None, :]).to(wide.dtype) @ wide
    return (take(wide, keep) + added).to(points.dtype)


def merge_dropped(
    points: torch.Tensor, attention: torch.Tensor, keep: torch.Tensor
) -> torch.Tensor:
    """Return the sum of all tokens that are not kept, weighted by attention.

    Source: PruMerge's extra token.

    Args: as of `merge_neighbours`.
    Returns: (..., 1, D), dtype of `points`.
    """
    wide = widen(points)
    weight = attention.to(wide.dtype).scatter(-1, keep, 0.0)
    return (weight[..., None, :] @ wide).to(points.dtype)
