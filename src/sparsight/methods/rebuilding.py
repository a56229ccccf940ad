"""SparseVLM's recycling, for methods that share it: a few new tokens made of dropped ones."""

import torch

from sparsight.counts.recycling import count_recycled
from sparsight.methods.parts.choosers import top_k
from sparsight.methods.parts.merging import Aggregate, density_peaks, merge
from sparsight.methods.parts.tensors import take
from sparsight.methods.view import Recycled, View


def rebuild_dropped(
    view: View,
    score: torch.Tensor,
    keep: torch.Tensor,
    *,
    clusters: int,
    tau: float,
    theta: float,
    aggregate: Aggregate = "mean",
) -> Recycled:
    """Cluster the dropped tokens with the best scores, and make one token of each cluster.

    Args:
        view: of a group.
        score: (G, V).
        keep: (G, K).
        clusters: C, at least 1.
        tau: share of the dropped tokens that is clustered.
        theta: clusters per clustered token.
        aggregate: what a recycled token is of its members.
    """
    dropped = torch.ones_like(score, dtype=torch.bool).scatter(-1, keep, value=False)
    dropped_count = score.shape[-1] - keep.shape[-1]
    # a small count may have more clusters than tau would cluster tokens
    size = max(count_recycled(dropped_count, tau, theta)[0], clusters)  # P
    pool = top_k(score.masked_fill(~dropped, float("-inf")), size)  # (G, P)
    points = take(view.hidden, pool)  # (G, P, D)
    centres, labels = density_peaks(points, clusters)  # (G, C) in 0..P-1, (G, P)
    values = merge(points, labels, clusters, aggregate)  # (G, C, D)
    return Recycled(values, pool.gather(-1, centres), pool, labels)
