"""SparseVLM+: a RoPE prior divided out of the raters' attention, half of the heads, no recycling.

Source: authors' code github.com/Gumpest/SparseVLMs (Apache-2.0), branch main with USE_VERSION=2_0;
the paper (December 2025) was not available, and no accuracy table of it was found.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from sparsight.counts.budget import resolve_retain, solve_counts
from sparsight.counts.layout import Layout, count_tokens
from sparsight.counts.published import (
    check_depth,
    check_kept,
    choose_kept,
    is_published,
    take_published,
)
from sparsight.counts.schedule import PAPER_SITES, Accounting, Schedule
from sparsight.errors import SettingError, UnsupportedError
from sparsight.methods.method import Method, check_choice, read_whole_numbers
from sparsight.methods.parts.choosers import top_k
from sparsight.methods.parts.raters import choose_text_raters
from sparsight.methods.view import Distance, Selection, View
from sparsight.methods.voting import check_heads, count_heads

PAPER_KEPT: dict[int, tuple[int, ...]] = {
    192: (300, 200, 118),
    128: (238, 108, 60),
    96: (246, 54, 28),
    64: (66, 34, 20),
}


@dataclass(frozen=True)
class SparseVLMPlus(Method):
    """SparseVLM+.

    Source: authors' code, USE_VERSION=2_0: attention divided by
        R(i, j) = 2/sqrt(d) sum_f cos((i - j) theta_f), the heads with most rater-to-visual mass,
        mean over raters, top-k, original positions.
    Differs:
        R depends on distance alone, so it is looked up in a vector (the code multiplies H x L x L
        ones). R is kept above `prior_floor` of R(0): it turns negative at distance 1707 for base
        10000 and d = 128, where the code's division flips the sign; up to distance 700 it stays
        above 0.105 R(0), so published results stay.
        Raters and counts are those of SparseVLM.

    Args:
        accounting: whose layer mean `retain` speaks of: tokens "entering" a layer, or the
            "authors'" booking.
        kept: tokens kept at each site, instead of counts solved from `retain`.
        heads: heads that vote: an int is a count (the code's 14), a float in (0, 1] the fraction.
        prior_floor: least value of R as a share of R(0), in (0, 1].
    """

    name: ClassVar[str] = "sparsevlm-plus"
    summary: ClassVar[str] = (
        "a RoPE prior divided out of the raters' attention, half of the heads, no recycling"
    )
    source: ClassVar[str] = "authors' code of SparseVLM, branch main, 2025"
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_KEPT)
    beside_paper: ClassVar[frozenset[str]] = frozenset({"heads", "positions", "prior_floor"})
    signals: ClassVar[frozenset[str]] = frozenset({"attention", "distance"})

    accounting: Accounting = "entering"
    kept: tuple[int, ...] | None = None
    heads: float = 0.5
    prior_floor: float = 0.1

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        check_choice("accounting", self.accounting, ("entering", "authors"))
        if self.kept is not None:
            object.__setattr__(self, "kept", read_whole_numbers("kept", self.kept))
            check_kept(self.kept, self.sites)
        check_heads(self.heads)
        if not 0.0 < self.prior_floor <= 1.0:
            raise SettingError(
                f"prior_floor={self.prior_floor!r} is out of range; give a number in (0, 1]."
            )

    @classmethod
    def paper(cls, retain: int) -> Self:
        """Return the authors' exact settings for one of their budgets.

        Differs: a decoder that has not 32 layers is refused when the method is attached, as the
            counts would have another mean there.

        Raises: BudgetError: the budget was not published.
        """
        kept = take_published(cls.__name__, PAPER_KEPT, retain)
        return cls(retain=retain, sites=PAPER_SITES, kept=kept, accounting="authors", heads=14)

    def list_sites(self, layers: int) -> tuple[int, ...]:
        """Return every site of a sample; published counts are for decoders of 32 layers alone."""
        own = self.sites == PAPER_SITES
        published = own and is_published(PAPER_KEPT, self.retain, self.kept)
        check_depth(type(self).__name__, self.retain, layers, published=published)
        return super().list_sites(layers)

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan the counts at each site."""
        visual_tokens = count_tokens(layout)
        budget = resolve_retain(self.retain, visual_tokens)
        sites = self._choose_sites(budget, visual_tokens, layers)
        kept = choose_kept(type(self).__name__, self.kept, self.retain, visual_tokens)
        if kept is None:
            kept = solve_counts(budget, visual_tokens, sites, layers, self.accounting)
        return Schedule(visual_tokens, layers, sites, kept, (0,) * len(sites))

    def raters(self, visual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Choose text tokens with more than the mean share of the visual tokens' similarity."""
        return choose_text_raters(visual, text)

    def select(self, view: View) -> Selection:
        """Keep the tokens that the voting heads attend to most, with the prior divided out."""
        if view.attention is None or view.distance is None:
            raise UnsupportedError(
                "SparseVLMPlus needs a decoder with rotary positions; use SparseVLM on this one."
            )
        prior = self._look_up_prior(view.distance)  # (G, R, V)
        per_head = view.attention.mean_over_raters(1.0 / prior)  # (G, H, V)
        mass = per_head.sum(dim=-1)  # (G, H)
        voting = top_k(mass, count_heads(self.heads, per_head.shape[1]))[..., None]  # (G, h, 1)
        votes = per_head.gather(1, voting.expand(-1, -1, per_head.shape[-1]))  # (G, h, V)
        score = votes.mean(dim=1)  # (G, V)
        return Selection(top_k(score, view.keep_count, view.images), score=score)

    def _look_up_prior(self, distance: Distance) -> torch.Tensor:
        """Return R between each rater and each visual token, (G, R, V) float32."""
        far = (distance.raters[..., :, None] - distance.visual[..., None, :]).abs()  # (G, R, V)
        return tabulate_prior(distance.length, distance.inverse_frequencies, self.prior_floor)[far]


def tabulate_prior(length: int, inverse_frequencies: torch.Tensor, floor: float) -> torch.Tensor:
    """Return R at distances 0..length-1, at least `floor` times R(0).

    Source: SparseVLM+ code, "gravity correction".

    Args:
        inverse_frequencies: (d/2,) float32 rotary inverse frequencies.
        floor: share of R(0), in (0, 1].
    Returns: (length,) float32.
    """
    width = 2 * inverse_frequencies.numel()  # d
    distances = torch.arange(length, device=inverse_frequencies.device, dtype=torch.float32)
    cosines = torch.cos(distances[:, None] * inverse_frequencies.float())  # (length, d/2)
    table = cosines.sum(dim=-1) * (2.0 / math.sqrt(width))
    return table.clamp_min(floor * math.sqrt(width))  # R(0) is sqrt(d)
