"""Counts at each site, slowly, from a method's settings alone, in exact fractions.

Imports nothing of sparsight.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from tests.support import reference as ref
from tests.support import reference_baselines as base

PAPER_SITES, PAPER_LAYERS = (3, 7, 16), 32
EXACT = Fraction(1, 10**9)  # a count this much below a whole number is that number


@dataclass(frozen=True)
class Plan:
    """One sample's sites, and how many tokens each of them keeps and recycles."""

    sites: tuple
    kept: tuple
    recycled: tuple

    @property
    def counts(self):
        return tuple(map(sum, zip(self.kept, self.recycled, strict=True)))


def plan(method, grids, layers):
    """The plan of a sample whose visual tokens are these grids, one for each image."""
    visual = sum(height * width for height, width in grids)
    wanted = budget(method.retain, visual)
    sites = method.sites or scaled(wanted, visual, layers)
    name = type(method).__name__
    if name == "Downscale":
        small = base.small_grid(grids, method.retain) if wanted < visual else grids[0]
        return Plan(sites, (len(grids) * small[0] * small[1],), (0,))
    given = getattr(method, "kept", None)
    if given and not (isinstance(method.retain, int) and method.retain >= visual):
        return Plan(sites, *beside(method, given, visual))
    shift = getattr(method, "accounting", "entering") == "authors"
    counts = solve(wanted, visual, [max(site - shift, 0) for site in sites], layers)
    if name == "Pool" and wanted < visual:
        return Plan(sites, (0,), tuple(counts))
    return Plan(sites, *within(method, counts, visual))


def budget(retain, visual):
    if retain is None:
        return Fraction(visual)
    return Fraction(min(retain, visual)) if isinstance(retain, int) else Fraction(retain) * visual


def scaled(wanted, visual, layers):
    """The paper's sites at another depth; layers before the first cost half the budget at most."""
    half = [Fraction(site * layers, PAPER_LAYERS) + Fraction(1, 2) for site in PAPER_SITES]
    first, *later = sorted({min(max(math.floor(site), 1), layers - 1) for site in half})
    return (min(first, max(1, math.floor(wanted * layers / visual / 2))), *later)


def solve(wanted, visual, starts, layers):
    """Counts V r, V r^1.5, ...: the largest of 2^40 values of r that fits, then single tokens."""
    ends = [*starts[1:], layers]
    weights = [end - start for start, end in zip(starts, ends, strict=True)]
    room = wanted * layers - starts[0] * visual + EXACT

    def smooth(step):
        return [max(1.0, visual * (step / 2**40) ** (1 + i / 2)) for i in range(len(starts))]

    def fits(counts):
        return sum(w * Fraction(c) for w, c in zip(weights, counts, strict=True)) <= room

    step = 0
    for bit in reversed(range(41)):
        if step + 2**bit <= 2**40 and fits(smooth(step + 2**bit)):
            step += 2**bit
    counts = [math.floor(Fraction(count) + EXACT) for count in smooth(step)]
    heaviest_first = sorted(range(len(starts)), key=lambda i: -weights[i])
    while True:
        more = [[count + (i == site) for i, count in enumerate(counts)] for site in heaviest_first]
        allowed = [new for new in more if fits(new) and new == sorted(new, reverse=True)]
        allowed = [new for new in allowed if new[0] <= visual]
        if not allowed:
            return counts
        counts = allowed[0]


def clusters_of(method, dropped):
    if not dropped or not getattr(method, "recycle", False):
        return 0
    return ref.pool_size(dropped, method.tau, method.theta)[1]


def beside(method, given, visual):
    """Kept as given; the recycled ones come on top."""
    recycled, now = [], visual
    for count in given:
        recycled.append(clusters_of(method, now - count))
        now = count + recycled[-1]
    return given, tuple(recycled)


def within(method, counts, visual):
    """Kept and recycled tokens that add up to each count, as many kept as the rule leaves room."""
    kept, now = [], visual
    for count in counts:
        most = [k for k in range(1, count + 1) if k + clusters_of(method, now - k) <= count]
        kept.append(max(most, default=count - count // 2))
        now = count
    return tuple(kept), tuple(count - k for count, k in zip(counts, kept, strict=True))
