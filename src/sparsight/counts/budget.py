"""From a retention budget to the number of visual tokens that leave each site, in whole tokens.

Pure arithmetic: knows no model, no tensor and no method.
"""

import math
import numbers
from collections.abc import Callable, Sequence
from itertools import pairwise

from sparsight.counts.schedule import Accounting
from sparsight.errors import BudgetError

EPSILON = 1e-9  # 49 times 1 / 49 is a little less than 1, and means 1


def check_retain(retain: object) -> int | float:
    """Return a budget as a Python int or float, its type and range checked.

    Args: retain: a count >= 1 of any integer type, or a fraction in (0, 1] of any real one; NumPy's
        types are such.
    Raises: BudgetError: it is neither; the message says what was given.
    """
    if isinstance(retain, numbers.Integral) and not isinstance(retain, bool) and int(retain) >= 1:
        return int(retain)
    if isinstance(retain, numbers.Real) and not isinstance(retain, numbers.Integral):
        fraction = float(retain)
        if 0.0 < fraction <= 1.0:
            return fraction
        if fraction > 1.0 and fraction.is_integer():
            raise BudgetError(
                f"retain={retain} is a float, and floats are fractions in (0, 1]; give the int "
                f"{fraction:.0f} for a count."
            )
    allowed = "give a count >= 1 or a fraction in (0, 1]."
    if isinstance(retain, numbers.Real):
        raise BudgetError(f"retain={retain!r} keeps nothing meaningful; {allowed}")
    hint = ""
    if hasattr(retain, "item"):
        hint = " (a tensor or array of one element: give its .item())"
    kind = type(retain).__name__
    raise BudgetError(
        f"retain={retain!r} is of type {kind}, which is no real number{hint}; {allowed}"
    )


def resolve_retain(retain: float | None, visual_tokens: int) -> float:
    """Return the layer mean of visual tokens that a budget allows, possibly fractional.

    Args:
        retain: int count or float fraction in (0, 1]; None for no bound.
        visual_tokens: V, tokens of the sample, at least 1.
    Returns: a number in (0, V]; a count of V or more keeps all.
    Raises: BudgetError: `retain` is none of these.
    """
    if retain is None:
        return float(visual_tokens)
    checked = check_retain(retain)
    if isinstance(checked, float):
        return checked * visual_tokens
    return float(min(checked, visual_tokens))


def solve_counts(
    budget: float,
    visual_tokens: int,
    sites: Sequence[int],
    layers: int,
    accounting: Accounting = "entering",
    *,
    step: float = 0.5,
) -> tuple[int, ...]:
    """Return the visual tokens that leave each site, so that their layer mean meets a budget.

    Source: SparseVLM publishes counts for four budgets of 576 tokens and 32 layers only.
    Differs: any budget, V and depth. Counts fall as V r, V r^1.5, V r^2, ... with r bisected. They
    are rounded down, and what that leaves over is spent where it still fits, so the mean never
    exceeds the budget. Beside the published counts, at equal cost: 82/32/18 there and 89/35/14
    here (82.25 tokens); 309/204/113 there and 273/189/130 here (206.5).

    Args:
        budget: layer mean of visual tokens wanted, in (0, V].
        visual_tokens: V.
        sites: S of them, ascending.
        layers: L.
        accounting: how the layer mean is counted.
        step: by how much the exponent of r rises from site to site; 1 makes it V r, V r^2, V r^3.
    Returns: (S,) counts, descending, each in 1..V.
    Raises: BudgetError: the layers before the first site alone exceed the budget.
    """

    def fall(ratio: float) -> list[float]:
        return [visual_tokens * math.pow(ratio, 1 + i * step) for i in range(len(sites))]

    return _solve(fall, budget, visual_tokens, sites, layers, accounting=accounting)


def solve_shares(
    budget: float, visual_tokens: int, sites: Sequence[int], layers: int, shares: Sequence[float]
) -> tuple[int, ...]:
    """Return the visual tokens that leave each site, in given shares, for a layer mean.

    A share that would be more than V tokens is V tokens. Counts are rounded and spent as those of
    `solve_counts`.

    Args:
        budget: layer mean of visual tokens wanted, in (0, V].
        visual_tokens: V.
        sites: S of them, ascending.
        layers: L.
        shares: (S,) what the counts are in proportion to, descending.
    Returns: (S,) counts, descending, each in 1..V.
    Raises: BudgetError: the layers before the first site alone exceed the budget.
    """
    least = min(shares)

    def scale(size: float) -> list[float]:
        return [visual_tokens * min(1.0, size * share / least) for share in shares]

    return _solve(scale, budget, visual_tokens, sites, layers, accounting="entering")


def _solve(
    count: Callable[[float], list[float]],
    budget: float,
    visual_tokens: int,
    sites: Sequence[int],
    layers: int,
    *,
    accounting: Accounting,
) -> tuple[int, ...]:
    """Return whole counts whose layer mean meets a budget.

    Args: count: returns (S,) counts for a number in [0, 1]; more for larger ones, V for 1.
    """
    shift = 0 if accounting == "entering" else 1
    starts = [max(site - shift, 0) for site in sites]  # the first layer booked at each count
    weights = [after - start for start, after in pairwise([*starts, layers])]  # (S,) layers each
    check_affordable(budget, visual_tokens, starts[0], layers)
    room = budget * layers - starts[0] * visual_tokens  # tokens times layers, behind the first site

    counts = [max(1, int(part + EPSILON)) for part in count(_bisect(count, room, weights))]
    return _spend(counts, weights, room, visual_tokens)


def check_affordable(budget: float, visual_tokens: int, full: int, layers: int) -> None:
    """Check that V tokens in the first `full` layers, and one token behind them, meet a budget.

    Raises: BudgetError: they exceed it; the message says what could be met.
    """
    least = (full * visual_tokens + layers - full) / layers
    if budget >= least - EPSILON:
        return
    fraction = math.ceil(least / visual_tokens * 1000) / 1000
    instead = (
        f"Give retain={math.ceil(least - EPSILON)} or more, or, for samples of as many tokens or "
        f"more, the fraction {fraction:g}"
    )
    if not full:
        raise BudgetError(
            f"a layer mean of {budget:g} visual tokens cannot be met: the least is 1, as one of a "
            f"sample's {visual_tokens} stays in any case. {instead}."
        )
    raise BudgetError(
        f"a layer mean of {budget:g} visual tokens cannot be met: {visual_tokens} tokens run in "
        f"full through the first {full} of {layers} layers; the least is {least:.4g}. {instead}; "
        "or prune at an earlier site (the input, sites=(0,), with methods that read no attention)."
    )


def _bisect(count: Callable[[float], list[float]], room: float, weights: Sequence[int]) -> float:
    """Return the largest number in [0, 1] whose counts fit `room`."""

    def cost(size: float) -> float:
        # no count falls below one token
        return sum(w * max(1.0, part) for w, part in zip(weights, count(size), strict=True))

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if cost(middle) <= room:
            low = middle
        else:
            high = middle
    return high if cost(high) <= room else low


def _spend(counts: list[int], weights: list[int], room: float, most: int) -> tuple[int, ...]:
    """Return counts with single tokens added, heaviest site first, while they fit `room`.

    Args:
        counts: (S,) descending, with room to spare.
        weights: (S,) layers that run at each count.
        most: what the first count may reach; a later one may reach the count before it.
    """
    left = room - sum(w * c for w, c in zip(weights, counts, strict=True))
    heaviest_first = sorted(range(len(counts)), key=lambda i: -weights[i])
    while True:
        for i in heaviest_first:
            above = counts[i - 1] if i else most
            if weights[i] <= left + EPSILON and counts[i] < above:
                counts[i] += 1
                left -= weights[i]
                break
        else:
            return tuple(counts)
