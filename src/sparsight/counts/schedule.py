"""Counts and costs: from a retention budget to exact integers per site, and from counts to FLOPs and bytes.

Pure arithmetic. Knows no model, no tensor and no method; it is the only place that rounds.

Words: a *site* is the decoder layer on whose entry the sequence gets shorter, so "prune after layer
2" is site 3; site 0 is the input.
*Entering* accounting counts the tokens that enter a layer, which is what is computed and paid for.
*Authors'* accounting (SparseVLM's code) books the layer before a site at its reduced count although
it processed the larger one.
"""

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from sparsight.errors import BudgetError, SettingError

Accounting = Literal["entering", "authors"]

PAPER_SITES = (3, 7, 16)  # "after layers 2, 6 and 15" of 32
PAPER_LAYERS = 32


@dataclass(frozen=True)
class Schedule:
    """How many visual tokens one sample keeps and recycles at each site.

    Args:
        visual_tokens: tokens before pruning.
        layers: decoder layers L.
        sites: layers on whose entry the sequence gets shorter, ascending, in 0..L-1; 0 is the
            input, before layer 0.
        kept: tokens kept at each site.
        recycled: tokens rebuilt from dropped ones at each site.
        image_grid: rows and columns of visual tokens that each image is scaled down to before it is
            encoded; None where images keep their size.
        exact: whether each site leaves exactly its count; if not, counts are upper bounds.
    """

    visual_tokens: int
    layers: int
    sites: tuple[int, ...]
    kept: tuple[int, ...]
    recycled: tuple[int, ...]
    image_grid: tuple[int, int] | None = None
    exact: bool = True

    @property
    def counts(self) -> tuple[int, ...]:
        """Visual tokens that leave each site, recycled ones included."""
        return tuple(k + c for k, c in zip(self.kept, self.recycled, strict=True))

    @property
    def entering(self) -> tuple[int, ...]:
        """Visual tokens that enter each of the L layers."""
        return per_layer(self.visual_tokens, self.sites, self.counts, self.layers)

    @property
    def prunes(self) -> bool:
        """Whether any site may shorten the sample; if not, its computation stays untouched."""
        return not self.exact or min(self.counts, default=self.visual_tokens) < self.visual_tokens

    def mean(self, accounting: Accounting = "entering") -> float:
        """Layer mean of visual tokens under one of the two accountings."""
        shift = 0 if accounting == "entering" else 1
        sites = tuple(
            max(site - shift, 0) for site in self.sites
        )  # no layer stands before the input
        return sum(per_layer(self.visual_tokens, sites, self.counts, self.layers)) / self.layers


def per_layer(
    start: int, sites: Sequence[int], counts: Sequence[int], layers: int
) -> tuple[int, ...]:
    """Expand counts at sites into one count per layer.

    Returns: (L,) counts; layers before the first site hold `start`.
    """
    row, now, after = [], start, dict(zip(sites, counts, strict=True))
    for layer in range(layers):
        now = after.get(layer, now)
        row.append(now)
    return tuple(row)


def scaled_sites(layers: int) -> tuple[int, ...]:
    """Scale the paper's sites 3, 7 and 16 of 32 to another depth.

    Source: SparseVLM (ICML 2025, arXiv 2410.04417), authors' code, pruning after layers 2, 6 and
    15.
    Differs: the source fixes the layers; here they scale, rounded half up, and sites that coincide
    merge.

    Args: layers: decoder layers, at least 2.
    Raises: BudgetError: the decoder has fewer than two layers.
    """
    if layers < 2:
        raise BudgetError(
            f"a decoder of {layers} layer has no site; pruning needs at least 2 layers."
        )
    scaled = (
        min(max((2 * site * layers + PAPER_LAYERS) // (2 * PAPER_LAYERS), 1), layers - 1)
        for site in PAPER_SITES
    )
    return tuple(sorted(set(scaled)))


def affordable_sites(budget: float, visual_tokens: int, layers: int) -> tuple[int, ...]:
    """Return the scaled sites, the first one moved forward until the layers before it cost half of the budget at most.

    Differs: the published sites are fixed, and the full layers before the first alone cost more
    than a small budget.

    Args: budget: layer mean of visual tokens wanted, in (0, V].
    Raises: BudgetError: the decoder has fewer than two layers.
    """
    first, *later = scaled_sites(layers)
    return (min(first, max(1, int(budget * layers / (2 * visual_tokens)))), *later)


def check_sites(sites: Sequence[int], layers: int, *, first: int = 1) -> tuple[int, ...]:
    """Return `sites` if they ascend strictly within first..layers-1.

    Args: first: 0 where the input is a site too.
    Raises: SettingError: otherwise.
    """
    if list(sites) != sorted(set(sites)) or not sites or sites[0] < first or sites[-1] >= layers:
        reason = (
            " No layer stands before site 0 whose attention could be read."
            if first and 0 in sites
            else ""
        )
        raise SettingError(
            f"sites={tuple(sites)} do not fit; give ascending layers within {first}..{layers - 1}.{reason}"
        )
    return tuple(sites)


def check_retain(retain: object) -> int | float:
    """Check a budget's type and range before any model is known, and return it as a Python int or float.

    Args: retain: a count >= 1 of any integer type, or a fraction in (0, 1] of any real one; NumPy's
    types are such.
    Raises: BudgetError: it is neither; the message says what was given.
    """
    if isinstance(retain, numbers.Integral) and not isinstance(retain, bool) and int(retain) >= 1:
        return int(retain)
    if isinstance(retain, numbers.Real) and not isinstance(retain, numbers.Integral):
        share = float(retain)
        if 0.0 < share <= 1.0:
            return share
        if share > 1.0 and share.is_integer():
            raise BudgetError(
                f"retain={retain} is a float, and floats are fractions in (0, 1]; give the int {share:.0f} for a count."
            )
    what = f"retain={retain!r}"
    if not isinstance(retain, numbers.Real):
        what += f" is of type {type(retain).__name__}, which is no real number"
        what += (
            " (a tensor or array of one element: give its .item())"
            if hasattr(retain, "item")
            else ""
        )
    else:
        what += " keeps nothing meaningful"
    raise BudgetError(f"{what}; give a count >= 1 or a fraction in (0, 1].")


def resolve_retain(retain: float | None, visual_tokens: int) -> float:
    """Return the layer mean of visual tokens that a budget allows, possibly fractional.

    Args:
        retain: int count or float fraction in (0, 1]; None for no bound.
        visual_tokens: tokens of the sample, V >= 1.
    Returns: a number in (0, V]; a count of V or more keeps all.
    Raises: BudgetError: `retain` is none of these.
    """
    if retain is None:
        return float(visual_tokens)
    checked = check_retain(retain)
    return (
        checked * visual_tokens
        if isinstance(checked, float)
        else float(min(checked, visual_tokens))
    )


def solve_counts(
    budget: float,
    visual_tokens: int,
    sites: Sequence[int],
    layers: int,
    accounting: Accounting = "entering",
) -> tuple[int, ...]:
    """Solve the visual tokens that leave each site so that their layer mean meets a budget.

    Source: SparseVLM publishes counts for four budgets of 576 tokens and 32 layers only.
    Differs: any budget, V and depth. Counts fall as V r, V r^1.5, V r^2, ... with r bisected; they
    are rounded down and the remainder is spent where it still fits, so the mean never exceeds the
    budget. Next to the published counts, at the same cost: 82/32/18 there, 89/35/14 here (82.25
    tokens); 309/204/113 there, 273/189/130 here (206.5).

    Args:
        budget: layer mean of visual tokens wanted, in (0, V].
    Returns: one count per site, descending, each in 1..V.
    Raises: BudgetError: the layers before the first site alone exceed the budget.
    """
    shift = 0 if accounting == "entering" else 1
    bounds = [*(max(site - shift, 0) for site in sites), layers]
    weights = [b - a for a, b in pairwise(bounds)]  # layers that run at each count
    least = (bounds[0] * visual_tokens + sum(weights)) / layers
    if budget < least - 1e-9:  # 49 times 1 / 49 is a little less than 1
        raise BudgetError(
            f"a layer mean of {budget:g} visual tokens cannot be met: {visual_tokens} tokens run in full through the "
            f"first {bounds[0]} of {layers} layers; the least is {least:.4g}. Give retain={math.ceil(least - 1e-9)} or "
            f"more, for samples of any size the fraction {math.ceil(least / visual_tokens * 1000) / 1000:g}, or prune "
            "at an earlier site (the input, sites=(0,), with methods that read no attention)."
        )
    room = budget * layers - bounds[0] * visual_tokens

    def cost(ratio: float) -> float:
        return sum(
            w * max(1.0, visual_tokens * math.pow(ratio, 1 + i / 2)) for i, w in enumerate(weights)
        )

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) <= room else (low, middle)
    ratio = high if cost(high) <= room else low
    counts = [
        max(1, int(visual_tokens * math.pow(ratio, 1 + i / 2) + 1e-9)) for i in range(len(weights))
    ]
    return _spend(counts, weights, room, visual_tokens)


def _spend(counts: list[int], weights: list[int], room: float, ceiling: int) -> tuple[int, ...]:
    """Add single tokens, heaviest site first, while the total stays within `room`."""
    left = room - sum(w * c for w, c in zip(weights, counts, strict=True))
    while True:
        for i in sorted(range(len(counts)), key=lambda i: -weights[i]):
            above = counts[i - 1] if i else ceiling
            if weights[i] <= left + 1e-9 and counts[i] < above:
                counts[i] += 1
                left -= weights[i]
                break
        else:
            return tuple(counts)


def recycled_count(dropped: int, tau: float, theta: float) -> tuple[int, int]:
    """Count the tokens that are clustered, and the clusters they become.

    Source: SparseVLM, authors' code: int(tau n) + 1 tokens, int(theta tokens) + 1 clusters.
    Differs: nothing is recycled from nothing.

    Returns: pool size and clusters, both 0 when `dropped` is 0.
    """
    if dropped == 0:
        return 0, 0
    pool = min(int(tau * dropped) + 1, dropped)
    return pool, min(int(theta * pool + 1e-9) + 1, pool)


def split_count(count: int, entering: int, tau: float, theta: float) -> tuple[int, int]:
    """Split a site's count into tokens kept and tokens recycled, by the authors' recycling rule.

    Differs: a count too small for that rule gives at most half of its places to recycled tokens.

    Args:
        count: tokens that leave the site, in 1..entering.
    Returns: kept and recycled, which add up to `count`.
    """
    if count >= entering:
        return entering, 0
    for kept in range(count, 0, -1):
        if kept + recycled_count(entering - kept, tau, theta)[1] <= count:
            return kept, count - kept
    return count - count // 2, count // 2
