"""AutoPrune: a site at every layer, with counts that fall along a logistic curve, and recycling.

Source: AutoPrune, NeurIPS 2025, arXiv 2509.23931; authors' code
github.com/AutoLab-SAI-SJTU/AutoPrune (Apache-2.0).
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Self

from sparsight.counts.budget import EPSILON, resolve_retain
from sparsight.counts.curve import follow_curve
from sparsight.counts.layout import Layout, count_tokens
from sparsight.counts.published import take_published
from sparsight.counts.recycling import split_counts
from sparsight.counts.schedule import Accounting, Schedule, check_sites
from sparsight.errors import SettingError
from sparsight.methods.method import Method, check_choice
from sparsight.methods.parts.choosers import top_k
from sparsight.methods.parts.levels import count_kept, fit_curve, plan_counts, stretch_curve
from sparsight.methods.rebuilding import rebuild_dropped
from sparsight.methods.view import Selection, View

PAPER_BUDGETS = {192: (192,), 128: (128,), 64: (64,)}
HIGHEST = 2.5  # no site leaves more than this times the budget
TAU, THETA = 0.3, 0.1  # of the dropped tokens, share that is clustered; clusters of each of those


@dataclass(frozen=True)
class AutoPrune(Method):
    """AutoPrune.

    Source: authors' code: layer 0 keeps 2.5 times the budget; from layer 1 on, the count that
        leaves layer l of 32 is in proportion to 1 / (1 + exp(k (l - 14.9 - k))). Tokens are ranked
        by the attention of all text, mean over heads; SparseVLM's recycling makes 3 % of what a
        layer drops new tokens.
    Differs:
        The code measures the mutual information I of text and visual tokens in layer 1 and takes
        the slope k = max(0.4 - 0.2 I, 0). Counts here are known before a run, so the slope is a
        setting. Recorded attention of 8 heads has k = 0.25 and 0.10; the embedded model, of 9
        heads, has 0.29 to 0.33. I adds up over heads, so models with many have flat curves.
        In layer 0 the code ranks by the class token's attention of the image encoder and, with a
        small weight, by text; here text ranks there too, as everywhere.
        A budget is the mean of the tokens that enter each layer, recycled ones included; the code
        counts those that leave a layer, as accounting="authors" and `paper()` do: its 192, 128 and
        64 of 576 are 204, 145 and 82 that enter.
        The curve is stretched to decoders of other depths. Every image keeps its best token.
        Tokens keep their positions; the code renumbers, as `paper()` does.

    Args:
        slope: k of the curve at 32 layers, in [0, 1]; 0 keeps counts constant.
        recycle: whether some of the tokens that leave a site are rebuilt from dropped ones; the
            first site rebuilds none.
        accounting: whose layer mean `retain` speaks of: tokens "entering" a layer, or the
            "authors'" booking of those that leave it.
    """

    name: ClassVar[str] = "autoprune"
    summary: ClassVar[str] = "attention of all text, counts that fall along a curve at every layer"
    source: ClassVar[str] = "AutoPrune, NeurIPS 2025, arXiv 2509.23931"
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_BUDGETS)
    signals: ClassVar[frozenset[str]] = frozenset({"attention"})

    slope: float = 0.2
    recycle: bool = True
    accounting: Accounting = "entering"

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        if not 0.0 <= self.slope <= 1.0:
            raise SettingError(
                f"slope={self.slope!r} is out of range; give a number in [0, 1], such as "
                "find_slope(information) of sparsight.methods.parts.levels."
            )
        check_choice("accounting", self.accounting, ("entering", "authors"))
        if self.accounting == "authors" and self.sites is not None:
            raise SettingError(
                f'accounting="authors" counts what leaves every layer; sites={self.sites}, leave '
                "sites out."
            )

    @classmethod
    def paper(cls, retain: int) -> Self:
        """Return the authors' settings for LLaVA-1.5 at one of their budgets.

        Differs: the slope is the default, not measured.

        Raises: BudgetError: no figures were published for the budget.
        """
        take_published(cls.__name__, PAPER_BUDGETS, retain)
        return cls(retain=retain, accounting="authors", positions="renumber")

    def list_sites(self, layers: int) -> tuple[int, ...]:
        """Return every layer but the first, or the sites that were given."""
        return check_sites(range(1, layers) if self.sites is None else self.sites, layers)

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan the counts along the curve."""
        visual_tokens, sites = count_tokens(layout), self.list_sites(layers)
        budget = resolve_retain(self.retain, visual_tokens)
        kept = counts = (visual_tokens,) * len(sites)
        if self.accounting == "authors" and budget < visual_tokens:
            kept, counts = self._plan_leaving(int(budget + EPSILON), visual_tokens, layers)
        elif budget < visual_tokens:
            curve = [math.inf, *stretch_curve(self.slope, layers)]  # by site
            counts = follow_curve(
                budget,
                visual_tokens,
                sites,
                layers,
                shares=[curve[site - 1] for site in sites],
                most=min(visual_tokens, int(HIGHEST * budget + EPSILON)),
            )
            later, _ = split_counts(counts[1:], counts[0], TAU, THETA)
            kept = (counts[0], *later)
        if not self.recycle:
            kept = counts
        recycled = tuple(n - k for n, k in zip(counts, kept, strict=True))
        return Schedule(visual_tokens, layers, sites, kept, recycled)

    def _plan_leaving(
        self, target: int, visual_tokens: int, layers: int
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return tokens kept at each site, and all that leave it, by the authors' counts.

        Args: target: layer mean of the tokens that leave a layer.
        """
        target = max(1, target)
        start = min(visual_tokens, int(HIGHEST * target))
        curve = fit_curve(stretch_curve(self.slope, layers), target, start)
        kept, counts = [start], [start]
        planned = plan_counts(curve, target, start)[1:-1]  # what leaves the last layer enters none
        for fraction, count in zip(curve[:-1], planned, strict=True):
            counts.append(min(count, counts[-1]))  # a site cannot bring tokens back
            kept.append(min(max(1, count_kept(fraction, target, start)), counts[-1]))
        return tuple(kept), tuple(counts)

    def select(self, view: View) -> Selection:
        """Keep the tokens that the text attends to most, and recycle some of the dropped ones."""
        if view.attention is None:
            raise SettingError(
                "AutoPrune needs rater attention; a view without it cannot be rated."
            )
        score = view.attention.mean()  # (G, V)
        keep, clusters = top_k(score, view.keep_count, view.images), view.count - view.keep_count
        if not clusters:
            return Selection(keep, score=score)
        recycled = rebuild_dropped(view, score, keep, clusters=clusters, tau=TAU, theta=THETA)
        return Selection(keep, recycled, score)
