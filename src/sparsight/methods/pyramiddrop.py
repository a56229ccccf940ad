"""PyramidDrop: fewer tokens stage by stage, by the attention of the prompt's last token.

Source: "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy
Reduction", CVPR 2025, arXiv 2410.17247; authors' code github.com/Cooperx521/PyramidDrop (MIT).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch

from sparsight.counts.budget import resolve_retain, solve_counts
from sparsight.counts.layout import Layout, count_tokens
from sparsight.counts.published import check_depth, is_published, take_published
from sparsight.counts.schedule import Schedule, scale_sites
from sparsight.errors import SettingError
from sparsight.methods.last_token import choose_last, select_by_attention
from sparsight.methods.method import Method
from sparsight.methods.view import Selection, View

STAGES = (8, 16, 24)  # of 32 layers
EARLY = (2, 8, 16)  # what the authors advise where the layers before 8 cost too much
AFFORDABLE = 0.75  # share of a budget that the full layers may cost: 192 of 576 tokens from 8 on
PAPER_RATIOS: dict[int, tuple[tuple[int, ...], float]] = {270: (STAGES, 0.5), 64: (EARLY, 0.19)}


@dataclass(frozen=True)
class PyramidDrop(Method):
    """PyramidDrop.

    Source: the attention that the last token of the prompt would pay in the site's own layer, had
        nothing been removed there, mean over heads; stage i keeps V r^i of the V tokens at the
        start; authors' code.
    Differs:
        The ratio r is solved so that the mean of the tokens that enter each layer meets `retain`,
        and what rounding leaves over is spent; the code has r = 0.5 and rounds down, as `paper()`
        does. A budget of which the layers before 8 of 32 take more than three quarters (less than
        192 of 576 tokens) has its sites earlier, at 2, 8 and 16, as the authors advise, or at 1, 8
        and 16 where that is not enough. Sites scale with the depth.
        Every image keeps its best token. Shared key heads, several images, padding on the left and
        prompts behind a cache work, where the code raises or looks at the first image alone.
        Tokens keep their positions unless told otherwise; the code renumbers them at each site, as
        `paper()` does.

    Args:
        sites: None takes 8, 16 and 24 of 32 layers, or earlier ones for small budgets.
        ratio: r, the share of the tokens that each stage keeps of the one before, in (0, 1),
            rounded down, instead of one solved from `retain`.
    """

    name: ClassVar[str] = "pyramiddrop"
    summary: ClassVar[str] = "attention of the prompt's last token, three sites, fewer at each"
    source: ClassVar[str] = "PyramidDrop, CVPR 2025, arXiv 2410.17247"
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_RATIOS)
    signals: ClassVar[frozenset[str]] = frozenset({"attention"})
    attention_of: ClassVar[Literal["before", "site"]] = "site"

    ratio: float | None = None

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        if self.ratio is not None and not 0.0 < self.ratio < 1.0:
            raise SettingError(
                f"ratio={self.ratio!r} is out of range; give a number in (0, 1), or None to have "
                "it solved from retain."
            )

    @classmethod
    def paper(cls, retain: int) -> Self:
        """Return the authors' settings, at the layer mean that they have with 576 tokens.

        Source: 270 is the code's default, a ratio of 0.5 at layers 8, 16 and 24; 64 is the author's
            answer to a question, 0.19 at layers 2, 8 and 16.
        Differs: 64 has a layer mean of 62.9. A sample with no more visual tokens than `retain`
            keeps all. A decoder that has not 32 layers is refused when the method is attached, as
            the mean would be another one there.

        Raises: BudgetError: the budget was not published.
        """
        sites, ratio = take_published(cls.__name__, PAPER_RATIOS, retain)
        return cls(retain=retain, sites=sites, ratio=ratio, positions="renumber")

    def list_sites(self, layers: int) -> tuple[int, ...]:
        """Return every site that a sample may have; which ones it has depends on its budget."""
        if self.sites is not None:
            published = is_published(PAPER_RATIOS, self.retain, (self.sites, self.ratio))
            check_depth(type(self).__name__, self.retain, layers, published=published)
            return super().list_sites(layers)
        early = scale_sites(layers, EARLY)
        return tuple(sorted({1, *early, *scale_sites(layers, STAGES)}))

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan the counts of each stage."""
        visual_tokens = count_tokens(layout)
        budget = resolve_retain(self.retain, visual_tokens)
        sites = self._choose_sites(budget, visual_tokens, layers)
        if self.ratio is None or budget >= visual_tokens:
            kept = solve_counts(budget, visual_tokens, sites, layers, step=1.0)
        else:
            powers = [self.ratio**stage for stage in range(1, len(sites) + 1)]
            kept = tuple(max(1, int(visual_tokens * power)) for power in powers)
        return Schedule(visual_tokens, layers, sites, kept, (0,) * len(sites))

    def _choose_sites(self, budget: float, visual_tokens: int, layers: int) -> tuple[int, ...]:
        """Return the latest sites before which the layers leave a part of the budget."""
        if self.sites is not None:
            return self.list_sites(layers)
        affordable = int(AFFORDABLE * budget * layers / visual_tokens + 1e-9)
        for published in (STAGES, EARLY):
            sites = scale_sites(layers, published)
            if sites[0] <= affordable:
                return sites
        return 1, *(site for site in sites[1:] if site > 1)

    def raters(self, visual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Choose the last token."""
        del visual
        return choose_last(text)

    def select(self, view: View) -> Selection:
        """Keep the tokens that the last token would attend to most."""
        return select_by_attention(self, view)
