"""What was tried for the recommended method and left out, as methods for `sparsight eval`.

sparsight eval --suite scenes-2-dev --methods sparsight,benchmarks/tried.py:InTheMiddle ...
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from sparsight.counts.budget import resolve_retain
from sparsight.counts.layout import Layout, count_tokens
from sparsight.counts.schedule import Schedule, scale_sites
from sparsight.methods import Selection, Sparsight, View, top_k
from sparsight.methods.encoder import EncoderNeed
from sparsight.methods.method import require_grids
from sparsight.methods.parts.by_grid import keep_order, share_by_grid
from sparsight.methods.parts.choosers import choose_determinantal, choose_max_min
from sparsight.methods.parts.coverage import choose_coverage
from sparsight.methods.parts.geometry import Similarity, compare, compare_centred
from sparsight.methods.parts.raters import choose_text_raters
from sparsight.methods.parts.scores import measure_distinctiveness, scale_min_max
from sparsight.methods.parts.words import compare_words

MIDDLE = (21,)  # of 32 layers

Chooser = Callable[[Similarity, int, torch.Tensor], torch.Tensor]


def weigh(view: View, tokens: torch.Tensor) -> torch.Tensor:
    """Return the recommended method's weight of the tokens of one grid, (G, N)."""
    return scale_min_max(measure_distinctiveness(view.hidden[:, tokens]))


def cover(similarity: Similarity, count: int, weight: torch.Tensor) -> torch.Tensor:
    """Return tokens that cover the others, as SCOPE chooses."""
    return choose_coverage(similarity, count, factor=weight)


def cover_half(similarity: Similarity, count: int, weight: torch.Tensor) -> torch.Tensor:
    """Return tokens of which half cover the others, and the rest is the recommended choice."""
    covering = cover(similarity, max(1, round(count / 2)), weight)
    order = torch.cat([covering, choose_determinantal(similarity, count, weight)], dim=-1)
    # a token that both chose counts once, where it comes first
    rank = torch.arange(order.shape[-1], 0, -1, device=order.device).expand_as(order)
    best = torch.zeros_like(weight, dtype=rank.dtype).scatter_reduce(-1, order, rank, "amax")
    return best.topk(count, dim=-1).indices


CHOOSERS: dict[str, Chooser] = {
    "determinantal": choose_determinantal,
    "max-min": choose_max_min,
    "coverage": cover,
    "half": cover_half,
}


@dataclass(frozen=True)
class InTheMiddle(Sparsight):
    """Keeps twice as many tokens at the input, and half of them by attention two thirds down."""

    signals: ClassVar[frozenset[str]] = Sparsight.signals | {"attention"}
    chooses_at_input: ClassVar[bool] = True

    def list_sites(self, layers: int) -> tuple[int, ...]:
        """Return the input, the cut by attention and the horizon."""
        first, last = super().list_sites(layers)
        return first, *scale_sites(layers, MIDDLE), last

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan twice as many tokens in front of the cut as behind it."""
        visual_tokens = count_tokens(layout)
        budget = resolve_retain(self.retain, visual_tokens)
        _, cut, horizon = sites = self.list_sites(layers)
        half = int((budget * layers - (layers - horizon)) / (2 * cut + horizon - cut))
        kept = (min(visual_tokens, 2 * half), min(visual_tokens, half), 1)
        if budget >= visual_tokens:
            kept = (visual_tokens,) * 3
        return Schedule(visual_tokens, layers, sites, kept, (0,) * 3)

    def raters(self, visual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Choose SparseVLM's raters."""
        return choose_text_raters(visual, text)

    def select(self, view: View) -> Selection:
        """Cut by the raters' attention where there is any."""
        if view.site == 0 or view.attention is None or view.keep_count == 1:
            return super().select(replace(view, attention=None))
        score = view.attention.mean()
        return Selection(top_k(score, view.keep_count, view.images), score=score)


@dataclass(frozen=True)
class AllFrames(Sparsight):
    """Chooses from all images, tiles and frames together, each centred for itself."""

    def select(self, view: View) -> Selection:
        """Choose from all tokens."""
        if view.site:
            return super().select(view)
        points, weight = view.hidden.float(), torch.zeros(view.hidden.shape[:2])
        for grid in require_grids(self, view.layout).grids:
            own = points[:, grid.tokens]
            weight[:, grid.tokens] = weigh(view, grid.tokens)
            points = points.index_copy(1, grid.tokens, own - own.mean(dim=1, keepdim=True))
        order = choose_determinantal(compare(points).hold(), view.keep_count, weight)
        keep, score = keep_order(order, view.images)
        return Selection(keep, score=score)


@dataclass(frozen=True)
class ByGrid(Sparsight):
    """Another chooser or another weight in each grid."""

    chooser: str = "determinantal"
    attention: bool = False
    words: bool = False
    uncentred: bool = False

    signals: ClassVar[frozenset[str]] = Sparsight.signals | {"text"}

    @property
    def encoder_needs(self) -> tuple[EncoderNeed, ...]:
        """The class token's attention, where it counts."""
        return (EncoderNeed("class_attention"),) if self.attention else ()

    def select(self, view: View) -> Selection:
        """Choose in each grid."""
        if view.site:
            return super().select(view)
        layout, keep = require_grids(self, view.layout), []
        for grid, count in zip(layout.grids, share_by_grid(layout, view.keep_count), strict=True):
            own, weight = view.hidden[:, grid.tokens], weigh(view, grid.tokens)
            if self.attention:
                paid = view.encoder.class_attention()[:, grid.tokens]
                weight = weight * scale_min_max(paid) ** 0.25
            if self.words and view.text is not None:
                weight = weight * scale_min_max(compare_words(own, view.text.mean())[..., 0])
            points = compare(own) if self.uncentred else compare_centred(own)
            order = CHOOSERS[self.chooser](points.hold(), count, weight)
            keep.append(grid.tokens[order])
        return Selection(torch.cat(keep, dim=-1).sort(dim=-1).values)


@dataclass(frozen=True)
class PerImage(Sparsight):
    """Keeps more of pictures with more tokens that stand out, as pages of text have.

    `retain` is about the mean over the scenes; an image keeps 0.74 to 1.48 times as much.
    """

    adaptive: ClassVar[bool] = True

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan upper bounds."""
        visual_tokens = count_tokens(layout)
        budget = resolve_retain(self.retain, visual_tokens)
        stretched = replace(self, retain=min(1.0, 1.48 * budget / visual_tokens))
        plan = Sparsight.plan(stretched, layout, layers)
        return replace(plan, exact=not plan.prunes)

    def select(self, view: View) -> Selection:
        """Choose as many as the distinctive tokens ask for."""
        if view.site or view.exact:
            return super().select(view)
        distinct = [
            (scale_min_max(measure_distinctiveness(view.hidden[:, grid.tokens])) > 0.5).float()
            for grid in require_grids(self, view.layout).grids
        ]
        share = float(torch.cat(distinct, dim=-1).mean()) / 0.15
        count = max(1, round(view.keep_count * min(1.0, max(0.5, share))))
        return super().select(replace(view, count=count, keep_count=count, exact=True))
