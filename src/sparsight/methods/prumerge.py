"""PruMerge: patches of highest class attention with their neighbours added, one token of the rest.

Source: "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models", ICCV 2025,
arXiv 2403.15388; authors' code github.com/42Shawn/LLaVA-PruMerge (Apache-2.0).
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from sparsight.counts.layout import Layout
from sparsight.counts.schedule import Schedule
from sparsight.errors import BudgetError, SettingError
from sparsight.methods.encoder import EncoderNeed
from sparsight.methods.input_only import INPUT, SCORES, check_input_only, join_recycled
from sparsight.methods.method import Method, check_choice, require_grids
from sparsight.methods.parts.by_grid import share_by_grid
from sparsight.methods.parts.encoder_choices import choose_prumerge, count_outliers
from sparsight.methods.parts.geometry import compare
from sparsight.methods.parts.merging import merge_dropped, merge_neighbours
from sparsight.methods.view import Recycled, Selection, View


@dataclass(frozen=True)
class PruMerge(Method):
    """PruMerge. It reads no text.

    Source: authors' code; attention and keys of the block behind the one that made the features,
        all heads as one. Important patches have the class token's attention. Each takes in the
        patches whose keys are most like its own, important ones too, and one more token takes in
        all patches that are not important; both add features times attention, not scaled to 1. The
        paper speaks of a mean over dropped patches.
    Differs:
        The authors publish no budgets. Here a count is met exactly: all but one of an image's
        tokens are important patches, and the last one is made of the others. With
        level="outliers" and retain=None, counts are the authors': outliers of the attention.
        There is at least one important patch, where the code keeps the last token alone; an image
        that is allowed one token has an important patch alone.
        Images share the count by their sizes; outliers are counted for each.
        Tokens stand at the places of their patches, the last one at that of the patch that it takes
        most of. With positions="renumber" they stand as in the code: by falling attention behind
        each other, the last one last.
        Published figures are those of models that were tuned with the method.

    Args:
        level: how many patches are important: as many as the "count" allows, or the "outliers"
            above the third quartile by 1.5 interquartile ranges, and at most the count.
        score: whose attention: the "class" token's, or "received", what each patch receives from
            all, mean over heads, for encoders without a class token (no code of the authors).
        merge: what is added up: "features", which the projector turns into tokens, or the "tokens"
            themselves, where a projector takes no features one by one (no code of the authors).
        block: whose attention and keys, counted back from the block that made the features; -1 is
            the one behind it, as published, and 0 itself, where no block stands behind it.
        neighbours: patches that an important one takes in, at most all others.
    """

    name: ClassVar[str] = "prumerge"
    summary: ClassVar[str] = "the class token's attention, neighbours added, one token of the rest"
    source: ClassVar[str] = "PruMerge, ICCV 2025, arXiv 2403.15388"
    signals: ClassVar[frozenset[str]] = frozenset({"layout", "encoder"})
    adaptive: ClassVar[bool] = True  # with level="outliers"

    sites: tuple[int, ...] | None = INPUT
    level: Literal["count", "outliers"] = "count"
    score: Literal["class", "received"] = "class"
    merge: Literal["features", "tokens"] = "features"
    block: int = -1
    neighbours: int = 32

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        check_input_only(self)
        check_choice("level", self.level, ("count", "outliers"))
        check_choice("score", self.score, SCORES)
        check_choice("merge", self.merge, ("features", "tokens"))
        if self.retain is None and self.level != "outliers":
            raise BudgetError(
                'retain=None sets no bound, which level="outliers" alone can do without; give a '
                "count >= 1 or a fraction in (0, 1]."
            )
        if self.block < -1:
            raise SettingError(
                f"block={self.block!r} is out of range; give an int >= -1, which counts back from "
                "the block that made the features."
            )
        if self.neighbours < 0:
            raise SettingError(f"neighbours={self.neighbours!r} is out of range; give an int >= 0.")

    @property
    def encoder_needs(self) -> tuple[EncoderNeed, ...]:
        """Attention and keys of one block; features and projector."""
        kind: Literal["wide_class_attention", "received"] = "received"
        if self.score == "class":
            kind = "wide_class_attention"
        needs = (EncoderNeed(kind, self.block), EncoderNeed("wide_keys", self.block))
        if self.merge == "tokens":
            return needs
        return (*needs, EncoderNeed("features"), EncoderNeed("projector"))

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan the merged tokens; with level="outliers" their number is an upper bound.

        No token stays as it is, unless the count is higher than there are patches.
        """
        plan = super().plan(layout, layers)
        if not plan.prunes:
            return plan
        (count,), placed = plan.kept, require_grids(self, layout)
        made = min(count, len(placed) - len(placed.others))
        if self.level == "outliers":
            return replace(plan, kept=(0,), recycled=(made,), exact=False)
        return replace(plan, kept=(count - made,), recycled=(made,), exact=True)

    def select(self, view: View) -> Selection:
        """Merge the patches of each image into its important ones and one more token."""
        layout, device = require_grids(self, view.layout), view.hidden.device
        encoder, recycled = view.encoder, []
        if self.score == "class":
            attention = encoder.wide_class_attention(self.block)  # (G, V)
        else:
            attention = encoder.received(self.block)
        made = view.count - view.keep_count
        for grid, count in zip(layout.grids, share_by_grid(layout, made), strict=True):
            if count:
                tokens = grid.tokens.to(device, non_blocking=True)
                recycled.append(self._merge(view, tokens, attention[:, tokens], count))
        others = layout.others[: view.keep_count].to(device, non_blocking=True)
        keep = others.expand(len(attention), -1)
        return Selection(keep, join_recycled(recycled), attention)

    def _choose(self, attention: torch.Tensor, most: int) -> torch.Tensor:
        """Return the important patches of one image, (G, n) int64, by falling attention.

        Args:
            attention: (G, N).
            most: of them.
        """
        if self.level == "outliers":  # counts depend on the sample, so it is a group of one
            most = min(most, int(count_outliers(attention)[0]))
        return choose_prumerge(attention, most)

    def _merge(
        self, view: View, tokens: torch.Tensor, attention: torch.Tensor, count: int
    ) -> Recycled:
        """Return the merged tokens of one image.

        Args:
            tokens: (N,) int64, its patches.
            attention: (G, N) of them.
            count: how many tokens may be made of them.
        """
        chosen = self._choose(attention, max(1, count - 1))  # (G, n)
        similarity = compare(view.encoder.wide_keys(self.block)[:, tokens]).hold()
        source = view.hidden if self.merge == "tokens" else view.encoder.features()
        points, near = source[:, tokens], min(self.neighbours, len(tokens) - 1)
        merged = merge_neighbours(points, similarity, attention, chosen, near)
        centres, pool = chosen, chosen
        labels = torch.arange(chosen.shape[-1], device=tokens.device).expand_as(chosen)
        if count > 1:  # the token of the rest
            merged = torch.cat([merged, merge_dropped(points, attention, chosen)], dim=1)
            rest = attention.scatter(-1, chosen, float("-inf")).argmax(dim=-1, keepdim=True)
            centres = torch.cat([chosen, rest], dim=-1)
            pool = torch.arange(len(tokens), device=tokens.device).expand_as(attention)
            labels = torch.full_like(pool, chosen.shape[-1]).scatter(-1, chosen, labels)
        if self.merge == "features":
            merged = view.encoder.project(merged).to(view.hidden.dtype)
        return Recycled(merged, tokens[centres], tokens[pool], labels)
