"""SparseVLM: text raters, their attention as score, scheduled or rank-adaptive counts, recycling.

Source: Zhang et al., "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model
Inference", ICML 2025, arXiv 2410.04417; authors' code github.com/Gumpest/SparseVLMs (Apache-2.0),
branch v1.5.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch

from sparsight.counts.layout import Layout, count_tokens
from sparsight.counts.schedule import (
    PAPER_SITES,
    Accounting,
    Schedule,
    recycled_count,
    resolve_retain,
    solve_counts,
    split_count,
)
from sparsight.errors import BudgetError, SettingError
from sparsight.methods.method import Method, check_choice, whole_numbers
from sparsight.methods.parts.choosers import numerical_rank, top_k
from sparsight.methods.parts.merging import Aggregate, density_peaks, merge
from sparsight.methods.view import Recycled, Selection, View

ROUNDING = 16  # units in the last place within which two shares count as equal

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
        image stays. Counts are solved for any budget (the code has four); `paper()` gives the
        code's own. Nothing is pruned where the count is not below what is there (the code then
        drops one token). Clustering breaks ties by index (the code adds noise).
        Tokens keep their positions (the code renumbers them, as `paper()` does): on composed scenes
            a model that was
        asked where things are lost most of its answers to renumbering (docs/scenes.md), and models
        with several positions a token have no other way.

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
    """

    name: ClassVar[str] = "sparsevlm"
    summary: ClassVar[str] = (
        "text raters, their attention as score, scheduled or rank-adaptive counts, recycling"
    )
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_KEPT)
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

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        check_choice("level", self.level, ("schedule", "rank"))
        if self.retain is None and self.level != "rank":
            raise BudgetError(
                'retain=None sets no bound, which level="rank" alone can do without; give a count >= 1 '
                "or a fraction in (0, 1]."
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
                f"rank_tolerance={self.rank_tolerance!r} is out of range; give None or a share in [0, 1)."
            )
        if self.kept is not None:
            object.__setattr__(self, "kept", whole_numbers("kept", self.kept))
            check_kept(self.kept, self.sites)

    @classmethod
    def paper(cls, retain: int) -> Self:
        """Return the authors' exact settings for one of their budgets.

        Source: authors' code: 192, 128 and 64 from branch v1.5, 96 from main; pruning after layers
            2, 6 and 15.
        Differs: the counts are absolute, made for 576 visual tokens and 32 layers; `retain` names
            the layer mean under the authors' accounting. A sample with no more visual tokens than
            that keeps all; one with more, but fewer than the first site keeps, is refused.

        Raises: BudgetError: a budget that was not published.
        """
        return cls(
            retain=retain,
            sites=PAPER_SITES,
            positions="renumber",
            kept=published_counts(cls, PAPER_KEPT, retain),
            accounting="authors",
        )

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan the counts at each site; with level="rank" they are upper bounds."""
        visual_tokens = count_tokens(layout)
        wanted = resolve_retain(self.retain, visual_tokens)
        sites = self._choose_sites(wanted, visual_tokens, layers)
        counts = (visual_tokens,) * len(sites)
        if (
            isinstance(self.retain, int) and self.retain >= visual_tokens
        ):  # it has no more than it may keep
            return Schedule(visual_tokens, layers, sites, counts, (0,) * len(sites))
        if self.kept is not None and self.kept[0] > visual_tokens:
            raise BudgetError(
                f"kept={self.kept} is made for more than the sample's {visual_tokens} visual tokens; leave it out, and "
                f"{type(self).__name__}(retain=...) solves counts for any number."
            )
        if self.kept is None:
            counts = solve_counts(wanted, visual_tokens, sites, layers, self.accounting)
        kept, recycled, now = [], [], visual_tokens
        for i, count in enumerate(counts):
            keep, extra = (
                self._split(min(count, now), now)
                if self.kept is None
                else self._given(self.kept[i], now)
            )
            kept.append(keep)
            recycled.append(extra)
            now = keep + extra
        keeps_all = self.retain is not None and now == visual_tokens
        return Schedule(
            visual_tokens,
            layers,
            sites,
            tuple(kept),
            tuple(recycled),
            exact=keeps_all or self.level != "rank",
        )

    def _split(self, count: int, now: int) -> tuple[int, int]:
        return split_count(count, now, self.tau, self.theta) if self.recycle else (count, 0)

    def _given(self, keep: int, now: int) -> tuple[int, int]:
        keep = min(keep, now)
        return keep, recycled_count(now - keep, self.tau, self.theta)[1] if self.recycle else 0

    def raters(self, visual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Choose text tokens with more than the mean share of the visual tokens' similarity.

        Source: section 3.2, eq. 4 and 5: softmax over text of H_v H_q^T on raw input embeddings,
            mean over visual.
        Differs: strictly above the mean, as in the code (the paper prints >=), by more than
            rounding: text tokens that are alike get shares that differ in the last bit, by chance
            of the processor.
        """
        mass = rater_mass(visual, text)
        chosen = mass > mass.mean() * (1 + ROUNDING * torch.finfo(mass.dtype).eps)
        return chosen | ~chosen.any()

    def select(self, view: View) -> Selection:
        """Keep the tokens that the raters attend to most and recycle some of the rest."""
        if view.attention is None:
            raise SettingError(
                "SparseVLM needs rater attention; a view without it cannot be rated."
            )
        score = view.attention.mean()  # (G, V)
        keep_count, clusters = view.keep_count, view.count - view.keep_count
        if self.level == "rank":  # a group of one, as counts differ
            keep_count, clusters = self._rank_counts(view.attention.mean_over_heads()[0], view)
        keep = top_k(score, keep_count, view.images)
        recycled = self._recycle(view, score, keep, clusters) if clusters else None
        return Selection(keep, recycled, score)

    def _rank_counts(self, attention: torch.Tensor, view: View) -> tuple[int, int]:
        present = attention.shape[-1]
        removed = int(self.prune_scale * (present - numerical_rank(attention, self.rank_tolerance)))
        keep, extra = self._given(max(1, present - removed), present)
        return (
            (keep, extra)
            if keep + extra <= view.count
            else (view.keep_count, view.count - view.keep_count)
        )

    def _recycle(
        self, view: View, score: torch.Tensor, keep: torch.Tensor, clusters: int
    ) -> Recycled:
        dropped = torch.ones_like(score, dtype=torch.bool).scatter(-1, keep, value=False)
        size = max(
            recycled_count(score.shape[-1] - keep.shape[-1], self.tau, self.theta)[0], clusters
        )
        pool = top_k(score.masked_fill(~dropped, float("-inf")), size)  # (G, P)
        points = view.hidden.gather(1, pool[..., None].expand(-1, -1, view.hidden.shape[-1]))
        centres, labels = density_peaks(points, clusters)
        return Recycled(
            merge(points, labels, clusters, self.aggregate), pool.gather(-1, centres), pool, labels
        )


def check_kept(kept: Sequence[int], sites: Sequence[int] | None) -> None:
    """Check that counts given for each site can be met one after the other.

    Raises: SettingError: they are not one for each site, rise, or keep nothing.
    """
    if sites is None or len(kept) != len(sites) or min(kept, default=0) < 1:
        raise SettingError(
            f"kept={tuple(kept)} needs as many sites, each keeping at least 1; sites={sites}."
        )
    if list(kept) != sorted(kept, reverse=True):
        raise SettingError(
            f"kept={tuple(kept)} rises, and a site cannot bring tokens back; give counts that fall."
        )


def rater_mass(visual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Return (T,) the mean share of the visual tokens' similarity that each text token gets; adds up to 1.

    Args:
        visual: (V, D) raw input embeddings, no norm and no scale.
        text: (T, D).
    """
    wide = torch.promote_types(visual.dtype, torch.float32)
    return (visual.to(wide) @ text.to(wide).T).softmax(dim=-1).mean(dim=0)


def published_counts(
    cls: type[Method], table: dict[int, tuple[int, ...]], retain: int
) -> tuple[int, ...]:
    """Return the published counts of a budget.

    Raises: BudgetError: no such budget.
    """
    if retain not in table:
        budgets = ", ".join(map(str, table))
        message = f"{cls.__name__}.paper({retain!r}) was not published; choose {budgets}, or {cls.__name__}(retain=...)."
        raise BudgetError(message)
    return table[retain]
