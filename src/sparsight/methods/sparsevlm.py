"""SparseVLM: text raters, their attention as score, scheduled or rank-adaptive counts, recycling.

Source: Zhang et al., "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model
Inference", ICML 2025, arXiv 2410.04417; authors' code github.com/Gumpest/SparseVLMs (Apache-2.0),
branch v1.5.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

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
from sparsight.counts.recycling import add_recycled, count_recycled, split_counts
from sparsight.counts.schedule import PAPER_SITES, Accounting, Schedule
from sparsight.errors import BudgetError, SettingError
from sparsight.methods.calibration import Calibration
from sparsight.methods.method import Method, check_choice, read_whole_numbers
from sparsight.methods.parts.choosers import numerical_rank, top_k
from sparsight.methods.parts.merging import Aggregate
from sparsight.methods.parts.raters import choose_text_raters
from sparsight.methods.rebuilding import rebuild_dropped
from sparsight.methods.view import Selection, View

VIDEO_SITES = (2,)
PAPER_VIDEO = 194  # of a video of Video-LLaVA
PAPER_QWEN = (600, 500, 400)  # budgets of Table 2, whose counts are not public
PAPER_KEPT: dict[int, tuple[int, ...]] = {
    192: (300, 200, 110),
    128: (303, 110, 36),
    96: (238, 48, 26),
    64: (66, 30, 17),
}


@dataclass(frozen=True)
class SparseVLM(Method):
    """SparseVLM.

    Source: arXiv 2410.04417; section 3.2 (raters), 3.3 (score and level), 3.4 (recycling).
    Differs:
        Raters are the real text tokens after the last image (the code counts a second image as
        text); where none is strictly above the mean, all of them rate (the code divides by zero).
        Scores come from rater rows alone (the code builds the full map). The best token of every
        image stays.
        Counts are solved for any budget (the code has four); `paper()` gives the code's own. A site
        whose count equals what is there prunes nothing (the code then drops one token).
        Clustering breaks ties by index (the code adds noise).
        Tokens keep their positions (the code renumbers them, as `paper()` does). On composed
        scenes, a model that was asked where things are lost most of its answers to renumbering
        (docs/scenes.md), and models with several positions a token have no other way.

    Args:
        level: "schedule" keeps fixed counts; "rank" removes N = prune_scale (V - rank(P)) tokens at
            each site, P being the raters' attention, and keeps at most the schedule's count unless
            `retain` is 1.0.
        recycle: whether dropped tokens are clustered into a few new ones.
        aggregate: what a recycled token is: the "mean" of its members (the code) or their "sum"
            (the paper).
        accounting: whose layer mean `retain` speaks of: tokens "entering" a layer, or the
            "authors'" booking.
        tau: share of the dropped tokens that is clustered, by score, in (0, 1].
        theta: clusters per clustered token, in (0, 1].
        prune_scale: the paper's lambda, in (0, 1]; the paper names no value.
        rank_tolerance: singular values above this share of the largest count; None: max(R, V) times
            float32's epsilon.
        kept: tokens kept at each site, recycled ones not counted, instead of counts solved from
            `retain`.
        calibrate: whether every layer counts a recycled token as often as it has members, by adding
            the logarithm of their number to its attention logits, as RESTORE does (no setting of
            the authors).
    """

    name: ClassVar[str] = "sparsevlm"
    summary: ClassVar[str] = (
        "text raters, their attention as score, scheduled or rank-adaptive counts, recycling"
    )
    source: ClassVar[str] = "SparseVLM, ICML 2025, arXiv 2410.04417"
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_KEPT)
    beside_paper: ClassVar[frozenset[str]] = frozenset(
        ("level", "recycle", "aggregate", "tau", "theta", "prune_scale", "rank_tolerance")
    ) | {"calibrate", "positions"}
    signals: ClassVar[frozenset[str]] = frozenset({"attention"})
    adaptive: ClassVar[bool] = True  # with level="rank"

    level: Literal["schedule", "rank"] = "schedule"
    recycle: bool = True
    aggregate: Aggregate = "mean"
    accounting: Accounting = "entering"
    tau: float = 0.3
    theta: float = 0.1
    prune_scale: float = 0.5
    rank_tolerance: float | None = None
    kept: tuple[int, ...] | None = None
    calibrate: bool = False

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        check_choice("level", self.level, ("schedule", "rank"))
        if self.retain is None and self.level != "rank":
            raise BudgetError(
                'retain=None sets no bound, which level="rank" alone can do without; give a count '
                ">= 1 or a fraction in (0, 1]."
            )
        check_choice("aggregate", self.aggregate, ("mean", "sum"))
        check_choice("accounting", self.accounting, ("entering", "authors"))
        for field in ("tau", "theta", "prune_scale"):
            if not 0.0 < getattr(self, field) <= 1.0:
                raise SettingError(
                    f"{field}={getattr(self, field)!r} is out of range; give a number in (0, 1]."
                )
        if self.rank_tolerance is not None and not 0.0 <= self.rank_tolerance < 1.0:
            raise SettingError(
                f"rank_tolerance={self.rank_tolerance!r} is out of range; give None or a share in "
                "[0, 1)."
            )
        if self.kept is not None:
            object.__setattr__(self, "kept", read_whole_numbers("kept", self.kept))
            check_kept(self.kept, self.sites)
        if self.calibrate and not self.recycle:
            raise SettingError(
                "calibrate=True counts members of recycled tokens, and recycle=False makes none; "
                "change one of the two."
            )

    @property
    def calibration(self) -> Calibration | None:
        """Sizes of recycled tokens, where they are to count."""
        return Calibration() if self.calibrate else None

    @classmethod
    def paper(cls, retain: int | None) -> Self:
        """Return the authors' exact settings for one of their budgets.

        Source: authors' code: 192, 128 and 64 from branch v1.5, 96 from main; pruning after layers
            2, 6 and 15. 194, of a video, and None are the settings of `paper_video`.
        Differs: the counts are absolute, made for 576 visual tokens and 32 layers; `retain` names
            the layer mean under the authors' accounting. A sample with no more visual tokens than
            `retain` keeps all; one with more, but fewer than the first site keeps, is refused.
            A decoder of another depth, such as that of LLaVA-1.5-13B, is refused when the method is
            attached: its layer mean would be another one, and the authors published no settings.
            Neither did they for Mini-Gemini; a decoder of 32 layers is given those of LLaVA-1.5.
            600, 500 and 400, which the paper's Table 2 names for Qwen2-VL, are refused: sites and
            counts behind them were not published. `SparseVLM(retain=600)` solves counts for them.
            With `recycle=False` beside these settings the tokens kept stay the same, and the layer
            means without recycled ones are 188.2, 123.9, 93.1 and 61.7. The paper does not say how
            its Table 4 ran without recycling; its code has fixed counts of tokens kept, to which
            recycled ones are added, so that leaving the step out gives these means.

        Raises: BudgetError: the budget, or its settings, were not published.
        """
        if retain is None or retain == PAPER_VIDEO:
            return cls.paper_video(retain)
        if retain in PAPER_QWEN:
            raise BudgetError(
                f"{cls.__name__}.paper({retain}) does not exist: the paper's Table 2 has {retain} "
                "tokens of Qwen2-VL, but the sites and counts behind them were not published; use "
                f"{cls.__name__}(retain={retain}), which solves counts for any model (on the "
                "command line: leave --paper out)."
            )
        return cls(
            retain=retain,
            sites=PAPER_SITES,
            positions="renumber",
            kept=take_published(cls.__name__, PAPER_KEPT, retain),
            accounting="authors",
        )

    @classmethod
    def paper_video(cls, retain: float | None = None) -> Self:
        """Return the settings of the authors' branch for videos, where the rank is the count.

        Source: authors' code, branch video: one site after layer 1, which keeps as many tokens as
            the rank of the raters' attention, mean over heads, and recycles as elsewhere.
        Differs: `retain` bounds the count; None sets no bound, as in the code. The trace shows the
            rank as the tokens kept, and beside it the raters, which bound it: of 2,056 tokens, 13
            raters keep at most 13, and 62 recycled ones. The paper counts 8 frames of 256 tokens
            and names a mean of 194; Video-LLaVA's decoder is given 2,056, as each frame brings its
            class token. The bound 194 leaves 69 tokens, and 193.2 enter a layer.
        """
        return cls(
            retain=retain, sites=VIDEO_SITES, positions="renumber", level="rank", prune_scale=1.0
        )

    def list_sites(self, layers: int) -> tuple[int, ...]:
        """Return every site of a sample; published counts are for decoders of 32 layers alone."""
        own = self.sites == PAPER_SITES
        published = own and is_published(PAPER_KEPT, self.retain, self.kept)
        check_depth(type(self).__name__, self.retain, layers, published=published)
        return super().list_sites(layers)

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan the counts at each site; with level="rank" they are upper bounds."""
        visual_tokens = count_tokens(layout)
        budget = resolve_retain(self.retain, visual_tokens)
        sites = self._choose_sites(budget, visual_tokens, layers)
        kept = choose_kept(type(self).__name__, self.kept, self.retain, visual_tokens)
        recycled: tuple[int, ...] = (0,) * len(sites)
        if kept is not None:
            if self.recycle:  # on top of the tokens kept
                recycled = add_recycled(kept, visual_tokens, self.tau, self.theta)
        else:
            kept = solve_counts(budget, visual_tokens, sites, layers, self.accounting)
            if self.recycle:  # within the count
                kept, recycled = split_counts(kept, visual_tokens, self.tau, self.theta)
        plan = Schedule(visual_tokens, layers, sites, kept, recycled)
        bounds = self.level == "rank" and (plan.prunes or self.retain is None)
        return replace(plan, exact=not bounds)

    def raters(self, visual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Choose text tokens with more than the mean share of the visual tokens' similarity."""
        return choose_text_raters(visual, text)

    def select(self, view: View) -> Selection:
        """Keep the tokens that the raters attend to most, and recycle some of the dropped ones."""
        if view.attention is None:
            raise SettingError(
                "SparseVLM needs rater attention; a view without it cannot be rated."
            )
        score = view.attention.mean()  # (G, V)
        keep_count, clusters = view.keep_count, view.count - view.keep_count
        if self.level == "rank":  # counts depend on the sample, so it is a group of one
            attention = view.to_host(view.attention.mean_over_heads()[0])  # (R, V)
            keep_count, clusters = self._count_by_rank(attention, view)
        keep = top_k(score, keep_count, view.images)  # (G, K)
        if not clusters:
            return Selection(keep, score=score)
        shares = {"tau": self.tau, "theta": self.theta}
        recycled = rebuild_dropped(
            view, score, keep, clusters=clusters, aggregate=self.aggregate, **shares
        )
        return Selection(keep, recycled, score)

    def _count_by_rank(self, attention: torch.Tensor, view: View) -> tuple[int, int]:
        """Return how many tokens the rank of the raters' attention, (R, V), keeps and recycles."""
        present = attention.shape[-1]
        redundant = present - numerical_rank(attention, self.rank_tolerance)
        keep = max(1, present - int(self.prune_scale * redundant))
        clusters = 0
        if self.recycle:
            clusters = count_recycled(present - keep, self.tau, self.theta)[1]
        if keep + clusters > view.count:  # more than the schedule allows
            return view.keep_count, view.count - view.keep_count
        return keep, clusters
