"""SparseVLM+: a RoPE prior divided out of the raters' attention, half of the heads, no recycling.

Source: authors' code github.com/Gumpest/SparseVLMs (Apache-2.0), branch main with USE_VERSION=2_0;
the paper (December 2025) was not available, and no accuracy table of it was found.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from sparsight.counts.schedule import PAPER_SITES
from sparsight.errors import SettingError, UnsupportedError
from sparsight.methods.method import Positions
from sparsight.methods.parts.choosers import top_k
from sparsight.methods.sparsevlm import SparseVLM, published_counts
from sparsight.methods.view import Selection, View

PAPER_KEPT: dict[int, tuple[int, ...]] = {
    192: (300, 200, 118),
    128: (238, 108, 60),
    96: (246, 54, 28),
    64: (66, 34, 20),
}


@dataclass(frozen=True)
class SparseVLMPlus(SparseVLM):
    """SparseVLM+.

    Source: authors' code, USE_VERSION=2_0: attention divided by R(i, j) = 2/sqrt(d) sum_f cos((i -
    j) theta_f), the
        heads with most rater-to-visual mass, mean over raters, top-k, original positions.
    Differs: R depends on distance alone, so it is looked up in a vector (the code multiplies H x L
    x L ones).
        R is kept above `prior_floor` of R(0): it turns negative at distance 1707 for base 10000 and
        d = 128, where the code's division flips the sign; up to distance 700 it stays above 0.105
        R(0), so published ones stay.

    Args:
        heads: heads that vote: an int is a count (the code's 14), a float in (0, 1] the fraction.
        prior_floor: least value of R as a share of R(0), in (0, 1].
    """

    name: ClassVar[str] = "sparsevlm-plus"
    summary: ClassVar[str] = (
        "a RoPE prior divided out of the raters' attention, half of the heads, no recycling"
    )
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_KEPT)
    signals: ClassVar[frozenset[str]] = frozenset({"attention", "distance"})
    adaptive: ClassVar[bool] = False

    positions: Positions = "keep"
    recycle: bool = False
    heads: float = 0.5
    prior_floor: float = 0.1

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        if self.recycle or self.level == "rank":
            raise SettingError(
                "SparseVLMPlus neither recycles nor adapts to the rank; use SparseVLM for either."
            )
        whole = isinstance(self.heads, int) and not isinstance(self.heads, bool) and self.heads >= 1
        if not whole and not (isinstance(self.heads, float) and 0.0 < self.heads <= 1.0):
            raise SettingError(
                f"heads={self.heads!r} is out of range; give a count >= 1 or a fraction in (0, 1]."
            )
        if not 0.0 < self.prior_floor <= 1.0:
            raise SettingError(
                f"prior_floor={self.prior_floor!r} is out of range; give a number in (0, 1]."
            )

    @classmethod
    def paper(cls, retain: int) -> Self:
        """Return the authors' exact settings for one of their budgets.

        Raises: BudgetError: a budget that was not published.
        """
        kept = published_counts(cls, PAPER_KEPT, retain)
        return cls(retain=retain, sites=PAPER_SITES, kept=kept, accounting="authors", heads=14)

    def select(self, view: View) -> Selection:
        """Keep the tokens that the chosen heads' raters attend to most, distance divided out."""
        if view.attention is None or view.distance is None:
            raise UnsupportedError(
                "SparseVLMPlus needs a decoder with rotary positions; use SparseVLM on this one."
            )
        far = view.distance
        distance = (far.raters[..., :, None] - far.visual[..., None, :]).abs()  # (G, R, V)
        prior = rope_prior(far.length, far.inverse_frequencies, self.prior_floor)[distance]
        per_head = view.attention.mean_over_raters(1.0 / prior)  # (G, H, V)
        total = per_head.shape[1]
        count = (
            min(self.heads, total)
            if isinstance(self.heads, int)
            else max(1, int(self.heads * total))
        )
        chosen = top_k(per_head.sum(dim=-1), count)  # (G, heads)
        score = per_head.gather(1, chosen[..., None].expand(-1, -1, per_head.shape[-1])).mean(dim=1)
        return Selection(top_k(score, view.keep_count, view.images), score=score)


def rope_prior(length: int, inverse_frequencies: torch.Tensor, floor: float) -> torch.Tensor:
    """Return R at distances 0..length-1, at least `floor` times R(0).

    Source: SparseVLM+ code, "gravity correction".

    Args: inverse_frequencies: (d/2,) float32.
    Returns: (length,) float32.
    """
    width = 2 * inverse_frequencies.numel()
    steps = torch.arange(length, device=inverse_frequencies.device, dtype=torch.float32)
    table = torch.cos(steps[:, None] * inverse_frequencies.float()).sum(dim=-1) * (
        2.0 / math.sqrt(width)
    )
    return table.clamp_min(floor * math.sqrt(width))
