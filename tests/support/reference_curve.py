"""Counts that follow AutoPrune's curve, written slowly. Imports nothing of sparsight."""

import math
from fractions import Fraction
from itertools import pairwise

TAU, THETA = 0.3, 0.1


def fraction(slope, layer, layers):
    """The curve in one layer, whose place is counted in 32 layers."""
    return 0.75 / (1 + math.exp(slope * (layer * 32 / layers - 14.9 - slope)))


def entering(wanted, visual, sites, layers, slope):
    """Counts of each site: all grow together, from one token on, until the next step is too much.

    Args: wanted: layer mean of the tokens that enter a layer, a Fraction.
    """
    ends = [*sites[1:], layers]
    spans = [end - site for site, end in zip(sites, ends, strict=True)]
    room = wanted * layers - sites[0] * visual
    most = min(visual, math.floor(wanted * 5 / 2))
    counts = [1] * len(sites)
    if sites[0] == 1:  # what leaves layer 0 follows no curve
        others = sum(spans[1:])
        most = counts[0] = max(1, min(most, math.floor((room - others) / spans[0])))
    free = [i for i in range(len(sites)) if sites[i] > 1]
    shares = {i: fraction(slope, sites[i] - 1, layers) for i in free}
    while True:
        steps = {i: (counts[i] + 1) / shares[i] for i in free if counts[i] < most}
        if not steps:
            break
        first = min(steps.values())
        raised = [n + (steps.get(i) == first) for i, n in enumerate(counts)]
        if cost(raised, spans) > room:
            break
        counts = raised
    for i, span in enumerate(spans):
        above = counts[i - 1] if i else most
        if counts[i] < above and cost(counts, spans) + span <= room:
            counts[i] += 1
    return counts


def cost(counts, spans):
    return sum(n * span for n, span in zip(counts, spans, strict=True))


def leaving(target, visual, layers, slope):
    """Kept tokens and counts by the authors' rule, of what leaves each layer but the last."""
    start = min(visual, int(2.5 * target))

    def counts_of(factor):
        kept, counts = [start], [start]
        for layer in range(1, layers):
            share = min(1.0, factor * fraction(slope, layer, layers))
            kept.append(min(math.ceil((start - 1) * share), int(2.5 * target)))
            pool = int(0.3 * (counts[-1] - kept[-1])) + 1
            counts.append(kept[-1] + pool // 10 + 1)
        return kept, counts

    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        total = sum(counts_of(middle)[1])
        if total <= target * layers:
            low = middle
        else:
            high = middle
        if total == target * layers:
            break
    kept, counts = counts_of(low)
    for i in range(1, layers):
        counts[i] = min(counts[i - 1], counts[i])
        kept[i] = min(max(1, kept[i]), counts[i])
    return kept[: layers - 1], counts[: layers - 1]


def autoprune(method, wanted: Fraction, visual, layers, split):
    """Sites, tokens kept and tokens recycled of one sample.

    Args: split: tells of a count and of the tokens present how many are kept and recycled.
    """
    sites = method.sites or tuple(range(1, layers))
    if wanted == visual:
        return sites, (visual,) * len(sites), (0,) * len(sites)
    if method.accounting == "authors":
        kept, counts = leaving(max(1, math.floor(wanted)), visual, layers, method.slope)
    else:
        counts = entering(wanted, visual, sites, layers, method.slope)
        kept = counts[:1]
        for before, count in pairwise(counts):
            kept.append(split(count, before, TAU, THETA)[0])
    if not method.recycle:
        kept = counts
    recycled = tuple(count - k for count, k in zip(counts, kept, strict=True))
    return sites, tuple(kept), recycled
