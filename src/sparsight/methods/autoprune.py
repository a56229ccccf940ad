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
from sparsight.counts.published import check_depth, check_kept, choose_kept, take_published
from sparsight.counts.recycling import add_recycled, split_counts
from sparsight.counts.schedule import PAPER_LAYERS, Schedule, check_sites
from sparsight.errors import SettingError
from sparsight.methods.method import Method, read_whole_numbers
from sparsight.methods.parts.choosers import top_k
from sparsight.methods.parts.levels import count_kept, draw_curve, fit_curve, stretch_curve
from sparsight.methods.rebuilding import rebuild_dropped
from sparsight.methods.view import Selection, View

PAPER_BUDGETS = {192: (192,), 128: (128,), 64: (64,)}
SLOPE = 0.2  # the middle of what the code's rule can give
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
        A budget is the mean of the tokens that enter each layer, recycled ones included. The code
        counts those that leave a layer, and so does `paper()`.
        The curve is stretched to decoders of other depths. Every image keeps its best token.
        Tokens keep their positions; the code renumbers, as `paper()` does.

    Args:
        slope: k of the curve at 32 layers, in [0, 1]; 0 keeps counts constant.
        recycle: whether some of the tokens that leave a site are rebuilt from dropped ones; the
            first site rebuilds none.
        kept: tokens kept at each site, recycled ones not counted, instead of counts solved from
            `retain`.
    """

    name: ClassVar[str] = "autoprune"
    summary: ClassVar[str] = "attention of all text, counts that fall along a curve at every layer"
    source: ClassVar[str] = "AutoPrune, NeurIPS 2025, arXiv 2509.23931"
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_BUDGETS)
    signals: ClassVar[frozenset[str]] = frozenset({"attention"})

    slope: float = SLOPE
    recycle: bool = True
    kept: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        if not 0.0 <= self.slope <= 1.0:
            raise SettingError(f"slope={self.slope!r} is out of range; give a number in [0, 1].")
        if self.kept is not None:
            object.__setattr__(self, "kept", read_whole_numbers("kept", self.kept))
            check_kept(self.kept, self.sites)

    @classmethod
    def paper(cls, retain: int, slope: float = SLOPE) -> Self:
        """Return the authors' counts for LLaVA-1.5 at one of their budgets.

        Differs: the counts are absolute, made for 576 visual tokens and 32 layers. `retain` names
            the mean of the tokens that leave a layer, as the source does; 192, 128 and 64 have
            layer means of 209, 146 and 82. A decoder that has not 32 layers is refused when the
            method is attached.

        Args:
            retain: 192, 128 or 64.
            slope: `find_slope` of a measured mutual information; the default is not measured.
        Raises: BudgetError: no figures were published for the budget.
        """
        take_published(cls.__name__, PAPER_BUDGETS, retain)
        start = int(HIGHEST * retain)
        curve = fit_curve(draw_curve(slope, PAPER_LAYERS), retain, start)
        # what leaves the last layer enters none
        kept = (start, *(count_kept(fraction, retain, start) for fraction in curve[:-1]))
        sites = tuple(range(1, PAPER_LAYERS))
        return cls(retain=retain, sites=sites, positions="renumber", slope=slope, kept=kept)

    def list_sites(self, layers: int) -> tuple[int, ...]:
        """Return every layer but the first, or the sites that were given."""
        published = self.kept is not None and self.sites == tuple(range(1, PAPER_LAYERS))
        check_depth(type(self).__name__, self.retain, layers, published=published)
        return check_sites(range(1, layers) if self.sites is None else self.sites, layers)

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan the counts along the curve."""
        visual_tokens, sites = count_tokens(layout), self.list_sites(layers)
        budget = resolve_retain(self.retain, visual_tokens)
        recycled = (0,) * len(sites)
        if budget >= visual_tokens:
            return Schedule(visual_tokens, layers, sites, (visual_tokens,) * len(sites), recycled)
        kept = choose_kept(type(self).__name__, self.kept, self.retain, visual_tokens)
        if kept is not None:
            if self.recycle:  # on top of the tokens kept
                recycled = (0, *add_recycled(kept[1:], kept[0], TAU, THETA))
            return Schedule(visual_tokens, layers, sites, kept, recycled)
        curve = [math.inf, *stretch_curve(self.slope, layers)]  # by site
        kept = follow_curve(
            budget,
            visual_tokens,
            sites,
            layers,
            shares=[curve[site - 1] for site in sites],
            most=min(visual_tokens, int(HIGHEST * budget + EPSILON)),
        )
        if self.recycle:  # within the count
            later, rebuilt = split_counts(kept[1:], kept[0], TAU, THETA)
            kept, recycled = (kept[0], *later), (0, *rebuilt)
        return Schedule(visual_tokens, layers, sites, kept, recycled)

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
