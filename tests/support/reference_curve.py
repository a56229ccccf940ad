"""Counts that follow AutoPrune's curve, written slowly. Imports nothing of sparsight."""

import math
from fractions import Fraction

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


def autoprune(method, wanted: Fraction, visual, layers, split):
    """Sites, tokens kept and tokens recycled of one sample.

    Args: split: tells of a count and of the tokens present how many are kept and recycled.
    """
    sites = method.sites or tuple(range(1, layers))
    if wanted == visual:
        return sites, (visual,) * len(sites), (0,) * len(sites)
    counts = method.kept or entering(wanted, visual, sites, layers, method.slope)
    steps, before = [(counts[0], 0)], counts[0]
    for count in counts[1:]:
        if not method.recycle:
            steps.append((count, 0))
        elif method.kept:
            steps.append((count, rebuilt(before - count)))
        else:
            steps.append(split(count, before, TAU, THETA))
        before = sum(steps[-1])
    kept, recycled = zip(*steps, strict=True)
    return sites, kept, recycled


def rebuilt(dropped):
    """The authors' clusters: 30 % of the dropped tokens and one, a tenth of those and one."""
    return (int(TAU * dropped) + 1) // 10 + 1 if dropped else 0
