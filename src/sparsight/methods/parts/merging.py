"""Pure mergers: rebuild a few tokens from the dropped ones. Knows tensors, no model and no method."""

from typing import Literal

import torch

Aggregate = Literal["mean", "sum"]


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
    """Return (..., N, N) Euclidean distances over sqrt(D), from the Gram matrix, at least in float32.

    Points are centred first: it changes no distance and keeps the subtraction of large squares
    exact enough. The result is symmetric bit for bit: two points that are each other's nearest are
    equally dense, and a product that rounds (a, b) and (b, a) differently would break that tie by
    chance.
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
