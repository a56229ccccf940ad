"""The schedule of one sample, which is how many visual tokens it has in each layer, and its sites.

Pure arithmetic: knows no model, no tensor and no method.

A *site* is the decoder layer on whose entry the sequence gets shorter: "prune after layer 2" is
site 3. Site 0 is the input. There are two ways to count the visual tokens of a layer:
*entering* counts the tokens that enter it, which is what is computed and paid for;
*authors* is the convention of SparseVLM's code, which books the layer before a site at the count
that leaves the site, although that layer processed the larger one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sparsight.errors import BudgetError, SettingError

Accounting = Literal["entering", "authors"]

PAPER_SITES = (3, 7, 16)  # SparseVLM's "after layers 2, 6 and 15" of 32
PAPER_LAYERS = 32


@dataclass(frozen=True)
class Schedule:
    """How many visual tokens one sample keeps and recycles at each site.

    Args:
        visual_tokens: V, tokens before pruning.
        layers: L, decoder layers.
        sites: layers on whose entry the sequence gets shorter, ascending, in 0..L-1.
        kept: tokens kept at each site.
        recycled: tokens rebuilt from dropped ones at each site.
        image_grid: rows and columns of visual tokens that each image is scaled down to before it is
            encoded; None where images keep their size.
        exact: whether each site leaves exactly its count; if not, counts are upper bounds.
        merged: how many tokens the image encoder is to merge each picture that it is given to, a
            tile being one; None where it merges none.
    """

    visual_tokens: int
    layers: int
    sites: tuple[int, ...]
    kept: tuple[int, ...]
    recycled: tuple[int, ...]
    image_grid: tuple[int, int] | None = None
    exact: bool = True
    merged: int | None = None

    @property
    def counts(self) -> tuple[int, ...]:
        """Visual tokens that leave each site, recycled ones included."""
        return tuple(k + c for k, c in zip(self.kept, self.recycled, strict=True))

    @property
    def entering(self) -> tuple[int, ...]:
        """Visual tokens that enter each of the L layers."""
        return expand_counts(self.visual_tokens, self.sites, self.counts, self.layers)

    @property
    def prunes(self) -> bool:
        """Whether any site may shorten the sample; if not, its computation stays untouched."""
        return not self.exact or min(self.counts, default=self.visual_tokens) < self.visual_tokens

    def mean(self, accounting: Accounting = "entering") -> float:
        """Return the layer mean of visual tokens under one of the two accountings."""
        shift = 0 if accounting == "entering" else 1
        # no layer stands before the input, so site 0 is booked alike in both
        sites = tuple(max(site - shift, 0) for site in self.sites)
        counts = expand_counts(self.visual_tokens, sites, self.counts, self.layers)
        return sum(counts) / self.layers


def expand_counts(
    start: int, sites: Sequence[int], counts: Sequence[int], layers: int
) -> tuple[int, ...]:
    """Return one count for each layer from one for each site.

    Returns: (L,) counts; layers before the first site hold `start`.
    """
    count_at = dict(zip(sites, counts, strict=True))
    expanded, now = [], start
    for layer in range(layers):
        now = count_at.get(layer, now)
        expanded.append(now)
    return tuple(expanded)


def scale_sites(layers: int, sites: Sequence[int] = PAPER_SITES) -> tuple[int, ...]:
    """Return SparseVLM's sites 3, 7 and 16 of 32 layers, or others, scaled to another depth.

    Source: SparseVLM (ICML 2025, arXiv 2410.04417), authors' code, pruning after layers 2, 6 and
    15.
    Differs: the source fixes the layers. Here they scale and are rounded half up; sites that
    coincide merge.

    Args:
        layers: L, decoder layers, at least 2.
        sites: of 32 layers.
    Raises: BudgetError: the decoder has fewer than two layers.
    """
    if layers < 2:
        raise BudgetError(
            f"a decoder of {layers} layer has no site; pruning needs at least 2 layers."
        )
    # (2 s L + 32) // 64 is s L / 32, rounded half up without a float
    scaled = ((2 * site * layers + PAPER_LAYERS) // (2 * PAPER_LAYERS) for site in sites)
    return tuple(sorted({min(max(site, 1), layers - 1) for site in scaled}))


def fit_sites(budget: float, visual_tokens: int, layers: int) -> tuple[int, ...]:
    """Return the scaled sites, the first one early enough for a budget.

    Differs: the published sites are fixed, and the full layers before the first one alone cost more
    than a small budget. Here the first site moves forward until these layers cost at most half of
    the budget, to site 1 at the earliest.

    Args: budget: layer mean of visual tokens wanted, in (0, V].
    Raises: BudgetError: the decoder has fewer than two layers.
    """
    first, *later = scale_sites(layers)
    affordable = int(budget * layers / (2 * visual_tokens))
    return (min(first, max(1, affordable)), *later)


def check_sites(sites: Sequence[int], layers: int, *, first: int = 1) -> tuple[int, ...]:
    """Return `sites` if they ascend strictly within first..layers-1.

    Args: first: 0 where the input is a site too, 1 where it is not.
    Raises: SettingError: there is no site, they do not ascend, or one lies outside.
    """
    ascending = list(sites) == sorted(set(sites))
    if ascending and sites and first <= sites[0] and sites[-1] < layers:
        return tuple(sites)
    reason = ""
    if first and 0 in sites:
        reason = " No layer stands before site 0 whose attention could be read."
    raise SettingError(
        f"sites={tuple(sites)} do not fit; give ascending layers within {first}..{layers - 1}."
        f"{reason}"
    )
