"""VisionZip: the patches of highest class attention, and a few tokens made of all others.

Source: "VisionZip: Longer is Better but Not Necessary in Vision Language Models", CVPR 2025, arXiv
2412.04467; authors' code github.com/dvlab-research/VisionZip (Apache-2.0).
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch

from sparsight.counts.layout import Layout, PatchGrid
from sparsight.counts.published import take_published
from sparsight.counts.schedule import Schedule
from sparsight.errors import SettingError
from sparsight.methods.encoder import EncoderNeed
from sparsight.methods.folding import join_recycled
from sparsight.methods.input_only import INPUT, SCORES, attention_need, check_input_only
from sparsight.methods.method import Method, check_choice, require_grids
from sparsight.methods.parts.by_grid import share_by_grid
from sparsight.methods.parts.cells import share
from sparsight.methods.parts.choosers import top_k
from sparsight.methods.parts.encoder_choices import choose_visionzip
from sparsight.methods.parts.geometry import compare
from sparsight.methods.parts.merging import Groups, merge_contextual
from sparsight.methods.view import Recycled, Selection, View

# contextual tokens of each budget, class token included in the budget
PAPER_CONTEXTUAL = {192: (30,), 128: (20,), 64: (10,)}


@dataclass(frozen=True)
class VisionZip(Method):
    """VisionZip. It reads no text.

    Source: authors' code; dominant patches have the class token's attention in the block that made
        the features; every n-th of the others is an anchor, and takes in those others whose keys
        are most like its own: its features plus the mean of theirs.
    Differs:
        The class token is not handed to the decoder; the count has one patch more instead.
        Images share the counts by their sizes (the code gives each tile of LLaVA-NeXT the same).
        Tokens keep their positions unless told otherwise, contextual ones that of their anchor; the
        code renumbers, contextual ones behind their image, as `paper()` does.

    Args:
        contextual: share of the count that is made of others, in [0, 1); published: 10 of 64.
        score: whose attention: the "class" token's, or "received", what each patch receives from
            all, for encoders without a class token (the paper's proposal for these).
        merge: what is added up: "features", which the projector turns into tokens, or the "tokens"
            themselves, where a projector takes no features one by one (no code of the authors).
    """

    name: ClassVar[str] = "visionzip"
    summary: ClassVar[str] = "the class token's attention, and a few tokens made of all others"
    source: ClassVar[str] = "VisionZip, CVPR 2025, arXiv 2412.04467"
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_CONTEXTUAL)
    signals: ClassVar[frozenset[str]] = frozenset({"layout", "encoder"})

    sites: tuple[int, ...] | None = INPUT
    contextual: float = 10 / 64
    score: Literal["class", "received"] = "class"
    merge: Literal["features", "tokens"] = "features"

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        check_input_only(self)
        check_choice("score", self.score, SCORES)
        check_choice("merge", self.merge, ("features", "tokens"))
        if not 0.0 <= self.contextual < 1.0:
            raise SettingError(
                f"contextual={self.contextual!r} is out of range; give a share in [0, 1)."
            )

    @classmethod
    def paper(cls, retain: int) -> Self:
        """Return the authors' settings for LLaVA-1.5 at one of their budgets.

        Raises: BudgetError: the budget was not published.
        """
        contextual = take_published(cls.__name__, PAPER_CONTEXTUAL, retain)[0]
        return cls(retain=retain, contextual=contextual / retain, positions="renumber")

    @property
    def encoder_needs(self) -> tuple[EncoderNeed, ...]:
        """Attention and keys of the block that made the features; features and projector."""
        needs = (attention_need(self.score), EncoderNeed("keys"))
        if self.merge == "tokens":
            return needs
        return (*needs, EncoderNeed("features"), EncoderNeed("projector"))

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan the dominant tokens, and the contextual ones within the count."""
        plan = super().plan(layout, layers)
        if not plan.prunes:
            return plan
        (count,) = plan.kept
        made = min(round(count * self.contextual), count - 1)
        return replace(plan, kept=(count - made,), recycled=(made,))

    def select(self, view: View) -> Selection:
        """Keep the dominant tokens of each image, and fold its others into its anchors."""
        layout, device = require_grids(self, view.layout), view.hidden.device
        made = view.count - view.keep_count
        patches = min(view.keep_count, len(layout) - len(layout.others) - made)
        dominant = share_by_grid(layout, patches)
        anchors = _share_anchors(layout, dominant, made)
        encoder = view.encoder
        score = encoder.class_attention() if self.score == "class" else encoder.received()
        keep = [
            layout.others[: view.keep_count - patches]
            .to(device, non_blocking=True)
            .expand(len(score), -1)
        ]
        recycled = []
        for grid, kept, count in zip(layout.grids, dominant, anchors, strict=True):
            tokens = grid.tokens.to(device, non_blocking=True)
            if not count:
                keep.append(tokens[top_k(score[:, tokens], kept)])
                continue
            similarity = compare(encoder.keys()[:, tokens]).hold()
            groups = choose_visionzip(score[:, tokens], similarity, kept, count)
            keep.append(tokens[groups.keep])
            recycled.append(self._fold(view, grid, groups))
        chosen = torch.cat(keep, dim=-1).sort(dim=-1).values
        return Selection(chosen, join_recycled(recycled), score)

    def _fold(self, view: View, grid: PatchGrid, groups: Groups) -> Recycled:
        """Return the contextual tokens of one grid."""
        tokens = grid.tokens.to(view.hidden.device, non_blocking=True)
        if self.merge == "tokens":
            values = merge_contextual(view.hidden[:, tokens], groups)
        else:
            features = merge_contextual(view.encoder.features()[:, tokens], groups)
            values = view.encoder.project(features).to(view.hidden.dtype)
        return Recycled(values, tokens[groups.centres], tokens[groups.pool], groups.labels)


def _share_anchors(layout: Layout, dominant: tuple[int, ...], made: int) -> list[int]:
    """Return how many anchors each grid gets, by the tokens that are left in it."""
    left = [len(grid.tokens) - kept for grid, kept in zip(layout.grids, dominant, strict=True)]
    parts = iter(share(made, [size for size in left if size]))
    return [next(parts) if size else 0 for size in left]
