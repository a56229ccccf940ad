"""The choice of PruneSID: groups by principal components, look-alikes suppressed, quotas.

Leading dimensions are a batch.
"""

import torch

from sparsight.methods.parts.merging import count_members
from sparsight.methods.parts.quotas import choose_in_groups, deal_out
from sparsight.methods.parts.tensors import normalise, rank_descending, take, widen, widest


def group_by_components(features: torch.Tensor, groups: int) -> torch.Tensor:
    """Return for each token the principal component on which it weighs most.

    Args: as of `weigh_components`.
    Returns: (..., N) int64 in 0..C-1.
    """
    return weigh_components(features, groups).argmax(dim=-1)


def weigh_components(features: torch.Tensor, groups: int) -> torch.Tensor:
    """Return how much each token weighs on each of the first principal components.

    Source: PruneSID (arXiv 2603.09480), authors' code: tokens are the variables of the analysis,
    the sigmoid of their channels the samples.
    Differs: components are exact. The code takes a randomised analysis without a seed, whose groups
    differ from run to run.

    Args:
        features: (..., N, D) float, of the encoder.
        groups: C, at most N and D; published: a quarter of the budget.
    Returns: (..., N, C) float in 0..1, in the device's widest dtype.
    """
    wide: torch.Tensor = features.to(widest(features.device)).sigmoid()
    wide = wide - wide.mean(dim=-1, keepdim=True)
    if wide.shape[-1] < wide.shape[-2]:  # the smaller Gram matrix has the same components
        directions = torch.linalg.eigh(wide.transpose(-1, -2) @ wide).eigenvectors
        loads: torch.Tensor = wide @ directions[..., -groups:].flip(-1)
        lengths: torch.Tensor = torch.linalg.vector_norm(loads, dim=-2, keepdim=True)
        loads = loads / lengths.clamp_min(torch.finfo(wide.dtype).tiny)
    else:
        loads = torch.linalg.eigh(wide @ wide.transpose(-1, -2)).eigenvectors
        loads = loads[..., -groups:].flip(-1)
    return loads.abs()


def measure_mean_cosine(points: torch.Tensor) -> torch.Tensor:
    """Return (...) float, the mean cosine of pairs of different tokens (..., N, D), N above 1."""
    units, count = normalise(points), points.shape[-2]
    return (units.sum(dim=-2).square().sum(dim=-1) - count) / (count * (count - 1))


def suppress_alike(
    score: torch.Tensor, features: torch.Tensor, groups: torch.Tensor, threshold: torch.Tensor
) -> torch.Tensor:
    """Return which tokens survive when each group's best suppresses those too much like it.

    Source: PruneSID, non-maximum suppression within groups.
    Differs: all groups and samples take a step at once. The number of steps depends on the tokens,
    so each one waits for the device.

    Args:
        score: (..., N) float.
        features: (..., N, D) float.
        groups: (..., N) int64.
        threshold: (...) float, cosine.
    Returns: (..., N) bool.
    """
    units, rank = normalise(features), rank_descending(score)
    present = score.shape[-1]
    order = rank.argsort(dim=-1)
    alive = torch.ones_like(score, dtype=torch.bool)
    survivors = torch.zeros_like(alive)
    while bool(alive.any()):
        best = torch.full_like(rank, present).scatter_reduce(
            -1, groups, torch.where(alive, rank, present), "amin"
        )
        first = best.gather(-1, groups)  # rank of the best that is alive in a token's group
        chosen = alive & (rank == first)
        leader = order.gather(-1, first.clamp(max=present - 1))
        alike = (units * take(units, leader)).sum(dim=-1)
        survivors = survivors | chosen
        alive = alive & ~chosen & (alike <= threshold[..., None])
    return survivors


def share_among_groups(
    sizes: torch.Tensor, survivors: torch.Tensor, budget: int, count: int
) -> torch.Tensor:
    """Return how many tokens each group may keep.

    Each group that is not empty gets one; the others are shared by survivors, with cumulative
    rounding, up to a limit; what the limits hold back goes to the groups with most survivors.

    Source: PruneSID, authors' code. A limit is the least of 5 ceil(budget / 64), size and
    survivors, raised by one for all until the limits reach the budget, never above the size.
    Differs: what is left over is dealt one each by falling survivors, round after round.

    Args:
        sizes: (..., C) int64, tokens of each group.
        survivors: (..., C) int64, those not suppressed.
        budget: K of the formulas; the class token is one of them in the code.
        count: tokens to keep, K - 1 where the class token is kept beside them.
    Returns: (..., C) int64, which sum up to `count`.
    """
    lower = (sizes > 0).long()
    upper = torch.minimum(sizes, survivors).clamp(max=5 * -(-budget // 64))
    levels = torch.arange(budget + 1, device=sizes.device)
    reach = torch.minimum(upper[..., None] + levels, sizes[..., None]).sum(dim=-2)
    level = (reach < budget).sum(dim=-1, keepdim=True)
    upper = torch.minimum(upper + level, sizes)
    others = count - lower.sum(dim=-1, keepdim=True)
    share = survivors.to(widest(sizes.device))
    share = share / share.sum(dim=-1, keepdim=True)
    steps = (share.cumsum(dim=-1) * others).round().long()
    first = torch.zeros_like(steps[..., :1])
    parts = torch.minimum(lower + steps.diff(dim=-1, prepend=first), upper)
    left = count - parts.sum(dim=-1, keepdim=True)
    # limits may hold back more than they have room for: the sizes have
    within = torch.minimum(left, (upper - parts).sum(dim=-1, keepdim=True))
    parts = parts + deal_out(within, upper - parts, share)
    return parts + deal_out(left - within, sizes - parts, share)


def choose_prunesid(
    attention: torch.Tensor,
    features: torch.Tensor,
    groups: torch.Tensor,
    budget: int,
    count: int,
    *,
    factor: float | None = None,
) -> torch.Tensor:
    """Return of each group its survivors first, then others by falling attention.

    Source: PruneSID (arXiv 2603.09480), authors' code.
    Differs: tokens come in raster order, where the code returns group by group.

    Args:
        attention: (..., N) float, of the class token.
        features: (..., N, D) float, of the encoder.
        groups: (..., N) int64 in 0..C-1, of `group_by_components`.
        budget: K of the formulas, C is a quarter of it.
        count: tokens to keep; published K - 1, beside the class token.
        factor: times the mean cosine is the threshold above which tokens are alike; None for
            K / 32, the code for LLaVA.
    Returns: (..., count) int64, ascending.
    """
    factor = budget / 32 if factor is None else factor
    threshold = factor * measure_mean_cosine(features)
    survivors = suppress_alike(attention, features, groups, threshold)
    clusters = max(1, budget // 4)
    sizes = count_members(groups, clusters)
    alive = torch.zeros_like(sizes).scatter_add(-1, groups, survivors.long())
    quotas = share_among_groups(sizes, alive, budget, count)
    rank = rank_descending(widen(attention))
    worth = survivors * attention.shape[-1] - rank
    return choose_in_groups(worth, groups, quotas, count)
