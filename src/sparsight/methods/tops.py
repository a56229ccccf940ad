"""TOPS: relevance, diversity and coverage in one greedy sum, at the input and twice inside.

Source: "TOPS: First-Principles Visual Token Pruning via Constructing Token Optimal Preservation
Sets for Efficient MLLM Inference", 2026, arXiv 2606.27161. Written from a description of the paper;
no code is public.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch

from sparsight.counts.budget import resolve_retain, solve_shares
from sparsight.counts.layout import Layout, PatchGrid, count_tokens
from sparsight.counts.published import (
    check_depth,
    check_kept,
    choose_kept,
    is_published,
    take_published,
)
from sparsight.counts.schedule import Schedule, scale_sites
from sparsight.errors import SettingError
from sparsight.methods.encoder import EncoderNeed
from sparsight.methods.input_only import SCORES, attention_need
from sparsight.methods.method import Method, check_choice, read_whole_numbers, require_grids
from sparsight.methods.parts.by_grid import choose_by_grid, keep_order
from sparsight.methods.parts.coverage import Scale, choose_tops
from sparsight.methods.parts.geometry import compare
from sparsight.methods.parts.raters import choose_text_raters
from sparsight.methods.view import Selection, View

STAGES = (12, 24)  # of 32 layers
SHARES = (2.0, 1.0, 0.25)  # of the nominal count T, at the input and behind each of the layers
# counts and the weight of the coverage, for LLaVA-1.5-7B
PAPER_SETTINGS: dict[int, tuple[tuple[int, ...], float]] = {
    128: ((256, 128, 32), 0.5),
    64: ((128, 64, 16), 1.0),
    32: ((64, 32, 8), 1.0),
}


@dataclass(frozen=True)
class TOPS(Method):
    """TOPS. It chooses at three places, and reads text at the second and third.

    Source: algorithm 1 of the paper; relevance is the class token's attention at the input, and the
        attention of raters inside the decoder; tokens are compared as they enter the first layer,
        and as they are at the site.
    Differs:
        The nominal count T is solved so that the mean of the tokens that enter each layer is the
        budget; the paper's T counts neither the layers that see 2 T tokens nor those of T / 4, and
        has a mean of 1.19 T. `paper()` has its counts. What rounding leaves over is spent. A share
        that would be more than all tokens is all.
        Sites scale from 12 and 24 of 32 layers; for Qwen2.5-VL's 28 the paper has 12 and 16, which
        sites=(0, 12, 16) gives.
        Raters are chosen once, by input embeddings, as SparseVLM does; the paper chooses them in
        each layer by the same rule, and finds that the rule hardly matters. Their attention is that
        of the layer before the site.
        Images share the count at the input by their sizes, and every image keeps a token inside.
        Gains are brought up to date instead of summed anew, which gives the same tokens.
        Tokens keep their positions unless told otherwise; the paper renumbers, as `paper()` does.

    Args:
        sites: the input and two decoder layers; None takes 3/8 and 3/4 of the depth.
        kept: tokens kept at each site, instead of counts solved from `retain`.
        alpha: weight of the diversity, at least 0.
        coverage_weight: weight of the coverage, lambda in the paper, at least 0.
        scale: what makes the three comparable: division by the "mean" (the paper's algorithm) or
            "min-max" (its text).
        score: whose attention at the input: the "class" token's, or "received", what each patch
            receives from all, for encoders without a class token.
    """

    name: ClassVar[str] = "tops"
    summary: ClassVar[str] = "relevance, diversity and coverage in one sum, at three places"
    source: ClassVar[str] = "TOPS, 2026, arXiv 2606.27161"
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_SETTINGS)
    signals: ClassVar[frozenset[str]] = frozenset({"attention", "encoder", "layout"})
    chooses_at_input: ClassVar[bool] = True

    kept: tuple[int, ...] | None = None
    alpha: float = 0.5
    coverage_weight: float = 0.5
    scale: Scale = "mean"
    score: Literal["class", "received"] = "class"

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        check_choice("scale", self.scale, ("mean", "min-max"))
        check_choice("score", self.score, SCORES)
        for field in ("alpha", "coverage_weight"):
            if not getattr(self, field) >= 0.0:
                raise SettingError(
                    f"{field}={getattr(self, field)!r} is out of range; give a number >= 0."
                )
        if self.sites is not None and (len(self.sites) != len(SHARES) or self.sites[0] != 0):
            raise SettingError(
                f"TOPS chooses at the input and at two decoder layers; sites={self.sites}, give "
                "three, such as (0, 12, 24)."
            )
        if self.kept is not None:
            object.__setattr__(self, "kept", read_whole_numbers("kept", self.kept))
            check_kept(self.kept, self.sites)

    @classmethod
    def paper(cls, retain: int) -> Self:
        """Return the paper's settings for LLaVA-1.5-7B at one of its nominal counts.

        Source: 2 T, T and T / 4 tokens at the input and at layers 12 and 24, alpha 0.5, and a
            weight of the coverage for each T, which is read as holding at all three places.
        Differs: `retain` names the paper's T. The mean of the tokens that enter a layer is 152, 76
            and 38 for 128, 64 and 32. A sample with no more visual tokens than `retain` keeps all;
            one with more, but fewer than the input keeps, is refused. So is a decoder that has not
            32 layers, when the method is attached, as the mean would be another one there.

        Raises: BudgetError: the count was not published.
        """
        kept, weight = take_published(cls.__name__, PAPER_SETTINGS, retain)
        return cls(
            retain=retain,
            sites=(0, *STAGES),
            positions="renumber",
            kept=kept,
            coverage_weight=weight,
        )

    @property
    def encoder_needs(self) -> tuple[EncoderNeed, ...]:
        """Attention in the block that made the features."""
        return (attention_need(self.score),)

    def list_sites(self, layers: int) -> tuple[int, ...]:
        """Return the input and the decoder layers."""
        if self.sites is not None:
            settings = (self.kept, self.coverage_weight)
            own = self.sites == (0, *STAGES)
            published = own and is_published(PAPER_SETTINGS, self.retain, settings)
            check_depth(type(self).__name__, self.retain, layers, published=published)
            return super().list_sites(layers)
        return 0, *scale_sites(layers, STAGES)

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan the tokens kept at each place."""
        visual_tokens, sites = count_tokens(layout), self.list_sites(layers)
        budget = resolve_retain(self.retain, visual_tokens)
        kept = choose_kept(type(self).__name__, self.kept, self.retain, visual_tokens)
        if kept is None or budget >= visual_tokens:
            kept = solve_shares(budget, visual_tokens, sites, layers, SHARES[: len(sites)])
        plan = Schedule(visual_tokens, layers, sites, kept, (0,) * len(sites))
        if plan.prunes:
            require_grids(self, layout)
        return plan

    def raters(self, visual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Choose text tokens with more than the mean share of the visual tokens' similarity."""
        return choose_text_raters(visual, text)

    def select(self, view: View) -> Selection:
        """Keep the tokens that are chosen for relevance, diversity and coverage."""
        if view.site == 0:
            return self._select_at_input(view)
        if view.attention is None:
            raise SettingError("TOPS needs rater attention; a view without it cannot be rated.")
        order = self._choose(view.attention.mean(), view.hidden, view.keep_count)
        keep, score = keep_order(order, view.images)
        return Selection(keep, score=score)

    def _select_at_input(self, view: View) -> Selection:
        """Choose in each image for itself, by the encoder's attention."""
        layout, encoder = require_grids(self, view.layout), view.encoder
        device = view.hidden.device
        relevance = encoder.class_attention() if self.score == "class" else encoder.received()

        def choose(grid: PatchGrid, count: int) -> torch.Tensor:
            tokens = grid.tokens.to(device, non_blocking=True)
            return self._choose(relevance[:, tokens], view.hidden[:, tokens], count)

        keep = choose_by_grid(layout, view.keep_count, len(view.hidden), device, choose)
        return Selection(keep, score=relevance)

    def _choose(self, relevance: torch.Tensor, tokens: torch.Tensor, count: int) -> torch.Tensor:
        """Return `count` of the tokens (G, n, D) in the order of choice, (G, k)."""
        return choose_tops(
            relevance,
            compare(tokens).hold(),
            count,
            alpha=self.alpha,
            coverage_weight=self.coverage_weight,
            scale=self.scale,
        )
