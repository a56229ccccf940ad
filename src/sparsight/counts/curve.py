"""Counts that follow a curve from site to site, solved so that their layer mean meets a budget.

Pure arithmetic: knows no model, no tensor and no method.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from sparsight.counts.budget import EPSILON, check_affordable


def follow_curve(
    budget: float,
    visual_tokens: int,
    sites: Sequence[int],
    layers: int,
    *,
    shares: Sequence[float],
    most: int,
) -> tuple[int, ...]:
    """Return the visual tokens that leave each site, in proportion to a curve.

    A site leaves min(most, z share) tokens, at least one. z is as large as the budget allows, and
    what is left of the budget then is spent on single tokens, from the first site on.

    Args:
        budget: layer mean of visual tokens entering a layer, in (0, V].
        visual_tokens: V.
        sites: S of them, ascending.
        layers: L.
        shares: (S,) the curve at each site, falling and above 0; infinite where a site leaves
            `most`, or less if the budget has no room for that.
        most: tokens that leave any site at most, in 1..V.
    Returns: (S,) counts, descending, each in 1..most.
    Raises: BudgetError: the layers before the first site alone exceed the budget.
    """
    check_affordable(budget, visual_tokens, sites[0], layers)
    weights = [after - site for site, after in pairwise([*sites, layers])]  # (S,) layers each
    room = budget * layers - sites[0] * visual_tokens + EPSILON  # tokens times layers
    first = sum(w for w, share in zip(weights, shares, strict=True) if math.isinf(share))
    if first:  # there is room for one token at each other site
        most = max(1, min(most, int((room - (sum(weights) - first)) / first)))
    low, high = 0.0, (most + 1) / min(shares)
    for _ in range(100):
        middle = (low + high) / 2
        fits = _cost(_scale(shares, middle, most), weights) <= room
        low, high = (middle, high) if fits else (low, middle)
    counts = _scale(shares, low, most)
    left = room - _cost(counts, weights)
    for i, weight in enumerate(weights):
        above = counts[i - 1] if i else most
        if weight <= left and counts[i] < above:
            counts[i] += 1
            left -= weight
    return tuple(counts)


def _scale(shares: Sequence[float], factor: float, most: int) -> list[int]:
    """Return the counts of a curve that is scaled by a factor."""
    return [
        most if math.isinf(share) else max(1, int(min(most, factor * share))) for share in shares
    ]


def _cost(counts: Sequence[int], weights: Sequence[int]) -> int:
    """Return tokens times layers behind the first site."""
    return sum(w * n for w, n in zip(weights, counts, strict=True))
