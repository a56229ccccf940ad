"""How many dropped tokens SparseVLM's recycling rebuilds, and how many are kept beside them.

Pure arithmetic: knows no model, no tensor and no method.
"""

from collections.abc import Sequence


def count_recycled(dropped: int, tau: float, theta: float) -> tuple[int, int]:
    """Return how many dropped tokens are clustered, and how many clusters they become.

    Source: SparseVLM, authors' code: int(tau n) + 1 tokens, int(theta tokens) + 1 clusters.
    Differs: nothing is recycled from nothing.

    Args:
        dropped: n, tokens dropped at a site.
        tau: share of them that is clustered, in (0, 1].
        theta: clusters per clustered token, in (0, 1].
    Returns: pool size and clusters, both 0 where nothing is dropped.
    """
    if dropped == 0:
        return 0, 0
    pool = min(int(tau * dropped) + 1, dropped)
    return pool, min(int(theta * pool + 1e-9) + 1, pool)


def split_count(count: int, entering: int, tau: float, theta: float) -> tuple[int, int]:
    """Return how many of the tokens that leave a site are kept, and how many recycled.

    As many are kept as leave room for the clusters of what is then dropped.

    Differs: the authors' rule adds clusters to the tokens kept. A count too small for that rule
    gives at most half of its places to recycled tokens.

    Args:
        count: tokens that leave the site, in 1..entering.
        entering: tokens that enter it.
    Returns: kept and recycled, which add up to `count`.
    """
    if count >= entering:
        return entering, 0
    for kept in range(count, 0, -1):
        if kept + count_recycled(entering - kept, tau, theta)[1] <= count:
            return kept, count - kept
    return count - count // 2, count // 2


def split_counts(
    counts: Sequence[int], visual_tokens: int, tau: float, theta: float
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return kept and recycled tokens of each site, which add up to its count.

    Args:
        counts: tokens that leave each site, descending.
        visual_tokens: tokens that enter the first one.
    """
    kept, recycled = [], []
    entering = visual_tokens
    for count in counts:
        keep, rebuilt = split_count(count, entering, tau, theta)
        kept.append(keep)
        recycled.append(rebuilt)
        entering = count
    return tuple(kept), tuple(recycled)


def add_recycled(
    kept: Sequence[int], visual_tokens: int, tau: float, theta: float
) -> tuple[int, ...]:
    """Return the recycled tokens of each site that come on top of the tokens kept there.

    Source: SparseVLM, authors' code: kept counts are fixed, clusters follow from what is dropped.

    Args:
        kept: tokens kept at each site, descending.
        visual_tokens: tokens that enter the first one.
    """
    recycled = []
    entering = visual_tokens
    for keep in kept:
        rebuilt = count_recycled(entering - keep, tau, theta)[1]
        recycled.append(rebuilt)
        entering = keep + rebuilt
    return tuple(recycled)
