"""How many visual tokens stay at each site, written slowly. Imports nothing of sparsight.

Budgets are fractions of whole numbers, and the bisection runs on integers, so nothing is rounded
before the end.
"""

import functools
import math
from dataclasses import dataclass
from fractions import Fraction

from tests.support import reference as ref
from tests.support import reference_baselines as base
from tests.support import reference_curve

BASELINES = ("Random", "Uniform", "Pool", "Downscale")
BY_ENCODER = (
    *("HiPrune", "FasterVLM", "VisPruner", "VisionZip", "PruMerge", "PruMergePlus"),
    *("HoloV", "PruneSID", "DivPrune", "SCOPE"),
)
STAGED = ("PyramidDrop", "VScan", "TOPS")
IN_ENCODER = ("ToMe", "PixelPrune")
VIDEOS = ("EVS", "VidCom2")
MERGING = ("Pool", "PruMerge", "PruMergePlus")  # all that stays is recycled
BY_TEXT = ("CDPruner", "MMTok", "EADP")
IN_DECODER = ("FastV", "DART", "SIEVE", "AutoPrune")
OWN = ("Sparsight", "SparseVLM", "SparseVLMPlus", "Restore")
INPUT = (*BY_ENCODER, *IN_ENCODER, *BY_TEXT, *VIDEOS)
PRESETS = (*OWN, *IN_DECODER, *STAGED, *INPUT, *BASELINES)
SLACK = Fraction(1, 10**9)  # the project's tolerance for budgets that are no binary fractions
BITS = 48  # of the bisected ratio


@dataclass(frozen=True)
class Plan:
    """Sites of one sample, and at each of them tokens kept and tokens recycled."""

    sites: tuple
    kept: tuple
    recycled: tuple

    @property
    def counts(self):
        return tuple(map(sum, zip(self.kept, self.recycled, strict=True)))

    def entering(self, visual, layers):
        """Visual tokens that enter each layer."""
        row, steps = [visual] * layers, zip(self.sites, self.counts, strict=True)
        for site, count in steps:
            row[site:] = [count] * (layers - site)
        return tuple(row)


def budget(retain, visual):
    """The layer mean that is wanted, exactly: 1/3 of 36 is 12."""
    if retain is None:
        return Fraction(visual)
    if isinstance(retain, int):
        return Fraction(min(retain, visual))
    return Fraction(retain).limit_denominator(10**6) * visual


def scaled(published, layers):
    """Sites of 32 layers for another depth."""
    sites = []
    for site in published:
        rounded = math.floor(Fraction(site * layers, 32) + Fraction(1, 2))
        sites.append(min(max(rounded, 1), layers - 1))
    return sites


def scaled_sites(wanted, visual, layers):
    """Return SparseVLM's sites for another depth; the first costs half the budget or less."""
    sites = scaled((3, 7, 16), layers)
    while sites[0] > 1 and sites[0] * visual > wanted * layers / 2:
        sites[0] -= 1
    return tuple(sorted(set(sites)))


def sites_of(method, wanted, visual, layers):
    """The sites of one sample."""
    name = type(method).__name__
    if name == "Sparsight":
        inside = () if method.where == "input" else tuple(scaled((28,), layers))
        return method.sites or (0, *inside)
    if method.sites or name not in STAGED:
        return method.sites or scaled_sites(wanted, visual, layers)
    if name != "PyramidDrop":
        inside = (16,) if name == "VScan" else (12, 24)
        return (0, *sorted(set(scaled(inside, layers))))
    for published in ((8, 16, 24), (2, 8, 16)):
        sites = scaled(published, layers)
        if sites[0] * visual <= wanted * layers * Fraction(3, 4) + SLACK:
            return tuple(sorted(set(sites)))
    return tuple(sorted({1, *sites[1:]}))


def curve(name, visual, ratio, count):
    """Counts at each site before rounding, for a ratio in 0..1."""
    if name == "PyramidDrop":
        return [visual * ratio ** (1 + i) for i in range(count)]
    if name in ("VScan", "TOPS"):
        shares = ([3, 1] if name == "VScan" else [8, 4, 1])[:count]
        return [visual * min(1, ratio * share / shares[-1]) for share in shares]
    return [visual * ratio ** (2 + i) for i in range(count)]


def solve(wanted, visual, sites, layers, authors, *, name=""):
    """Counts V s^2, V s^3, V s^4, ...: the largest s whose cost is met, then token by token.

    Args: name: of the method, as some have another curve.
    """
    starts = [max(site - authors, 0) for site in sites]
    spans = [end - start for start, end in zip(starts, [*starts[1:], layers], strict=True)]
    room = wanted * layers - starts[0] * visual

    def shares(ratio):
        return curve(name, visual, Fraction(ratio, 2**BITS), len(sites))

    def cost(values):
        return sum(span * max(1, value) for span, value in zip(spans, values, strict=True))

    ratio = 0
    for bit in reversed(range(BITS + 1)):
        if ratio + 2**bit <= 2**BITS and cost(shares(ratio + 2**bit)) <= room + SLACK:
            ratio += 2**bit
    counts = [max(1, math.floor(share + SLACK)) for share in shares(ratio)]
    heaviest = sorted(range(len(sites)), key=lambda i: (-spans[i], i))
    while True:
        left = room - sum(span * count for span, count in zip(spans, counts, strict=True))
        above = [visual, *counts]
        fits = [i for i in heaviest if spans[i] <= left + SLACK and counts[i] < above[i]]
        if not fits:
            return counts
        counts[fits[0]] += 1


def split(count, present, tau, theta):
    """The most tokens kept whose dropped ones' clusters still fit; else half of the places each."""
    if count >= present:
        return present, 0
    fits = [
        kept
        for kept in range(1, count + 1)
        if kept + ref.pool_size(present - kept, tau, theta)[1] <= count
    ]
    kept = max(fits, default=count - count // 2)
    return kept, count - kept


def at_site(method, index, count, present):
    """Tokens kept and recycled at one site of a method that SparseVLM's settings describe."""
    recycles = getattr(method, "recycle", False)
    if getattr(method, "kept", None) is not None:
        kept = min(method.kept[index], present)
        pool = present - kept if recycles else 0
        return kept, ref.pool_size(pool, method.tau, method.theta)[1] if pool else 0
    count = min(count, present)
    if type(method).__name__ == "VScan" and not index and count < present:
        return 0, count  # all that stay are means
    if hasattr(method, "contextual"):
        merged = min(round(count * method.contextual), count - 1) if count < present else 0
        return count - merged, merged
    return split(count, present, method.tau, method.theta) if recycles else (count, 0)


def share_with_base(method, whole, visual):
    """RESTORE: of each count that is less than what is there, the base keeps the share gamma."""
    kept, gamma = [], Fraction(method.gamma).limit_denominator(10**6)
    for before, count in zip((visual, *whole.counts), whole.counts, strict=False):
        own = max(1, math.floor(gamma * count)) if gamma else 0
        kept.append(count if count == before else own)
    rest = tuple(count - own for count, own in zip(whole.counts, kept, strict=True))
    return Plan(whole.sites, tuple(kept), rest)


def encoded(method, grids, wanted):
    """Tokens kept and recycled of a method that changes what the image encoder is given."""
    name, images = type(method).__name__, len(grids)
    if name == "Downscale":
        height, width = base.small_grid(grids, method.retain)
        return (images * height * width,), (0,)
    if name == "ToMe":  # every image is left as many tokens
        return (0,), (math.floor(wanted / images + SLACK) * images,)
    return (max(1, math.floor(wanted + SLACK)),), (0,)  # PixelPrune, a bound


def leave_one(method, wanted, visual, sites, layers):
    """Sparsight: one token behind its last site, if it has two; what is left goes in front.

    An adaptive level may double that, where there are more tokens than the double.
    """
    behind = layers - sites[1] if len(sites) > 1 else 0
    first = math.floor((wanted * layers - behind) / (layers - behind) + SLACK)
    if method.level == "adaptive" and 2 * first < visual:
        first *= 2
    kept = (max(1, min(visual, first)), 1)[: len(sites)]
    return Plan(sites, kept, (0,) * len(sites))


def plan(method, grids, layers):
    """The counts of one sample, from a method's settings and the grids of its images."""
    return _plan(method, type(method.retain), grids, layers)


@functools.cache
def _plan(method, kind, grids, layers):
    del kind  # a count of 1 and a share of 1.0 are equal as keys
    visual, name = sum(height * width for height, width in grids), type(method).__name__
    if name == "Restore":
        return share_with_base(method, plan(method.base, grids, layers), visual)
    wanted = budget(method.retain, visual)
    if name == "AutoPrune":
        return Plan(*reference_curve.autoprune(method, wanted, visual, layers, split))
    sites = sites_of(method, wanted, visual, layers)
    if wanted == visual and (isinstance(method.retain, int) or not getattr(method, "kept", None)):
        return Plan(sites, (visual,) * len(sites), (0,) * len(sites))
    if name in ("Downscale", *IN_ENCODER):
        return Plan(sites, *encoded(method, grids, wanted))
    if name == "Sparsight":
        return leave_one(method, wanted, visual, sites, layers)
    authors = getattr(method, "accounting", "entering") == "authors"
    counts = [None] * len(sites)
    if name == "PyramidDrop" and method.ratio:
        counts = [max(1, int(visual * method.ratio ** (i + 1))) for i in range(len(sites))]
    elif not getattr(method, "kept", None):
        counts = solve(wanted, visual, sites, layers, authors, name=name)
    steps, present = [], visual
    for index, count in enumerate(counts):
        steps.append(at_site(method, index, count, present))
        present = sum(steps[-1])
    kept, recycled = zip(*steps, strict=True)
    return Plan(sites, recycled, kept) if name in MERGING else Plan(sites, kept, recycled)
