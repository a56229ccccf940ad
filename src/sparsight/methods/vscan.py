"""VScan: windows and whole image at the input, with merging; the last token's attention inside.

Source: "VScan: Rethinking Visual Token Reduction for Efficient Large Vision-Language Models", TMLR
2026, arXiv 2505.22654; authors' code github.com/Tencent/SelfEvolvingAgent, folder VScan (MIT).
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch

from sparsight.counts.budget import resolve_retain, solve_shares
from sparsight.counts.layout import Layout, PatchGrid, count_tokens
from sparsight.counts.published import take_published
from sparsight.counts.schedule import Schedule, scale_sites
from sparsight.errors import SettingError
from sparsight.methods.encoder import EncoderNeed
from sparsight.methods.input_only import SCORES, join_recycled, sort_recycled
from sparsight.methods.last_token import choose_last, select_by_attention
from sparsight.methods.method import Method, check_choice, require_grids
from sparsight.methods.parts.by_grid import share_by_grid
from sparsight.methods.parts.geometry import compare
from sparsight.methods.parts.merging import assign_to_nearest, merge
from sparsight.methods.parts.window_choices import choose_vscan
from sparsight.methods.view import Recycled, Selection, View

MIDDLE = (16,)  # of 32 layers
SHARES = (1.5, 0.5)  # of the budget, at the input and behind the decoder layer
WINDOWS = {"class": 6, "received": 4}
PAPER_COUNTS = {192: (288, 96), 128: (192, 64), 64: (96, 32)}  # what SHARES makes of them


@dataclass(frozen=True)
class VScan(Method):
    """VScan. It chooses at two places, and reads text at the second.

    Source: authors' code. At the input, half of the tokens have the class token's attention in an
        early block, each window of the image its share of them, and half have it in the block that
        made the features; every other token is averaged into the one most like it. In the middle of
        the decoder, the last token's attention chooses, as in PyramidDrop.
    Differs:
        The input keeps 1.5 times the budget and the decoder layer half of it, as published for 64
        (96 and 32); where another layer than the middle one is given, both are scaled so that the
        mean of the tokens that enter each layer is the budget, and where the first would be more
        than all, the second is what is left. What rounding leaves over is spent.
        Exactly the count is kept, where the code for LLaVA rounds down in each window. Images share
        the counts by their sizes, and tokens are averaged within their image; the code gives each
        tile of LLaVA-NeXT the same. Row ends and other tokens that are no patch enter no average.
        The second choice reads rotated queries and keys, as the code does for LLaVA; its code for
        Qwen2.5-VL leaves the rotation out.
        The early block is a share of the depth: of CLIP's 24 blocks it is block 5, counted from 0,
        and of Qwen2.5-VL's 32 block 7, as published.
        Tokens keep their positions unless told otherwise; for LLaVA the code renumbers, as
        `paper()` does.

    Args:
        sites: the input and one decoder layer, such as (0, 16); None takes the middle one.
        score: whose attention: the "class" token's, or "received", what each patch receives from
            all, for encoders without a class token (the authors' code for Qwen2.5-VL).
        local_block: the early block; a float is a share of the depth, rounded to the nearest block
            that sees the whole image, an int counts back from the block that made the features.
        window: side of a window in visual tokens; None takes 6 with score="class" and 4 with
            "received", as published.
    """

    name: ClassVar[str] = "vscan"
    summary: ClassVar[str] = (
        "attention in windows and in the whole image, merging; then the prompt's last token"
    )
    source: ClassVar[str] = "VScan, TMLR 2026, arXiv 2505.22654"
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_COUNTS)
    signals: ClassVar[frozenset[str]] = frozenset({"attention", "encoder", "layout"})
    attention_of: ClassVar[Literal["before", "site"]] = "site"
    chooses_at_input: ClassVar[bool] = True

    score: Literal["class", "received"] = "class"
    local_block: float = 0.21
    window: int | None = None

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        check_choice("score", self.score, SCORES)
        if self.sites is not None and (len(self.sites) != 2 or self.sites[0] != 0):
            raise SettingError(
                f"VScan chooses at the input and at one decoder layer; sites={self.sites}, give "
                "two, such as (0, 16)."
            )
        if self.local_block < 0 or (isinstance(self.local_block, float) and self.local_block > 1):
            raise SettingError(
                f"local_block={self.local_block!r} is out of range; give a share of the depth in "
                "[0, 1], or an int >= 0 that counts back from the block that made the features."
            )
        if self.window is not None and self.window < 1:
            raise SettingError(f"window={self.window!r} is out of range; give an int >= 1.")

    @classmethod
    def paper(cls, retain: int) -> Self:
        """Return the authors' settings for LLaVA-1.5 at one of their budgets.

        Source: 64 is 96 at the input and 32 from layer 16 on; 192 and 128 by the same rule.

        Raises: BudgetError: the budget was not published.
        """
        take_published(cls.__name__, PAPER_COUNTS, retain)
        return cls(retain=retain, positions="renumber")

    @property
    def encoder_needs(self) -> tuple[EncoderNeed, ...]:
        """Attention in the early block and where features are made."""
        if self.score == "class":
            return EncoderNeed("class_attention", self.local_block), EncoderNeed("class_attention")
        return EncoderNeed("received", self.local_block), EncoderNeed("received")

    def list_sites(self, layers: int) -> tuple[int, ...]:
        """Return the input and the decoder layer."""
        if self.sites is not None:
            return super().list_sites(layers)
        return 0, *scale_sites(layers, MIDDLE)

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan the means at the input, and the tokens kept at the decoder layer."""
        visual_tokens, sites = count_tokens(layout), self.list_sites(layers)
        budget = resolve_retain(self.retain, visual_tokens)
        counts = solve_shares(budget, visual_tokens, sites, layers, SHARES)
        plan = Schedule(visual_tokens, layers, sites, counts, (0, 0))
        if plan.prunes:
            require_grids(self, layout)
        if counts[0] < visual_tokens:  # all that stay are means
            plan = replace(plan, kept=(0, counts[1]), recycled=(counts[0], 0))
        return plan

    def raters(self, visual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Choose the last token."""
        del visual
        return choose_last(text)

    def select(self, view: View) -> Selection:
        """Choose and merge at the input; keep what the last token attends to in the decoder."""
        if view.site:
            return select_by_attention(self, view)
        layout, encoder = require_grids(self, view.layout), view.encoder
        group = len(view.hidden)
        read = encoder.class_attention if self.score == "class" else encoder.received
        local, overall = read(self.local_block), read()  # (G, V) both
        patches = min(view.count, len(layout) - len(layout.others))
        parts = [
            self._fold(view, grid, count, (local, overall))
            for grid, count in zip(layout.grids, share_by_grid(layout, patches), strict=True)
            if count
        ]
        if patches < view.count:  # every patch stays, and some of the tokens that are none
            others = layout.others[: view.count - patches].to(view.hidden.device, non_blocking=True)
            own = torch.arange(len(others), device=others.device).expand(group, -1)
            others = others.expand(group, -1)
            parts.append(Recycled(view.hidden[:, others[0]], others, others, own))
        none = local.new_zeros(group, 0, dtype=torch.int64)
        return Selection(none, sort_recycled(join_recycled(parts)), overall)

    def _fold(
        self, view: View, grid: PatchGrid, count: int, scores: tuple[torch.Tensor, torch.Tensor]
    ) -> Recycled:
        """Return the means of one grid, each at the place of a chosen token.

        Args: scores: (G, V) of the early block and of the late one.
        """
        tokens = grid.tokens.to(view.hidden.device, non_blocking=True)
        window = WINDOWS[self.score] if self.window is None else self.window
        local, overall = (score[:, tokens] for score in scores)
        keep = choose_vscan(local, overall, count, grid.size, window)  # (G, k)
        points = view.hidden[:, tokens]
        labels = assign_to_nearest(compare(points), keep)  # (G, n)
        values = merge(points, labels, count, "mean")
        return Recycled(values, tokens[keep], tokens.expand(len(points), -1), labels)
