"""HiPrune: anchors of a middle encoder block with their neighbours, and registers of a late one.

Source: "HiPrune: Training-Free Visual Token Pruning via Hierarchical Attention in Vision-Language
Models", arXiv 2508.00553; authors' code github.com/Danielement321/HiPrune (MIT).
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from sparsight.counts.layout import PatchGrid
from sparsight.counts.published import take_published
from sparsight.errors import SettingError
from sparsight.methods.encoder import EncoderNeed
from sparsight.methods.input_only import INPUT, check_input_only
from sparsight.methods.method import Method, require_grids
from sparsight.methods.parts.by_grid import choose_by_grid
from sparsight.methods.parts.encoder_choices import choose_hiprune, count_anchors
from sparsight.methods.view import Selection, View

PAPER_BUDGETS = {192: (192,), 128: (128,), 64: (64,)}


@dataclass(frozen=True)
class HiPrune(Method):
    """HiPrune. It needs no class token, and reads no text.

    Source: authors' code; anchors are a fifth of `alpha` of the count, each with the tokens left,
        right, above and below it; the late block's best fill the count.
    Differs:
        Exactly the count is kept, where the code for Qwen2.5-VL may choose a token twice.
        Images of several sizes share the count by their sizes (the code gives each tile of
        LLaVA-NeXT the same, and looks at the first image of Qwen2.5-VL alone).
        The middle block is a share of the depth: of CLIP's 24 blocks it is block 8, counted from 0,
        and of Qwen2.5-VL's 32 block 15, as published; the code knows these two encoders.
        Tokens keep their positions unless told otherwise; for LLaVA the code renumbers, as
        `paper()` does.

    Args:
        alpha: share of the count that anchors and their neighbours take, in [0, 1].
        object_block: the middle block; a float is a share of the depth, rounded to the nearest
            block that sees the whole image, an int counts back from the block that made the
            features.
    """

    name: ClassVar[str] = "hiprune"
    summary: ClassVar[str] = "attention received in a middle and a late block of the image encoder"
    source: ClassVar[str] = "HiPrune, ACL 2026, arXiv 2508.00553"
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_BUDGETS)
    signals: ClassVar[frozenset[str]] = frozenset({"layout", "encoder"})

    sites: tuple[int, ...] | None = INPUT
    alpha: float = 0.1
    object_block: float = 0.35

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        check_input_only(self)
        if not 0.0 <= self.alpha <= 1.0:
            raise SettingError(f"alpha={self.alpha!r} is out of range; give a number in [0, 1].")
        if self.object_block < 0 or (
            isinstance(self.object_block, float) and self.object_block > 1
        ):
            raise SettingError(
                f"object_block={self.object_block!r} is out of range; give a share of the depth in "
                "[0, 1], or an int >= 0 that counts back from the block that made the features."
            )

    @classmethod
    def paper(cls, retain: int) -> Self:
        """Return the authors' settings for LLaVA-1.5 at one of their budgets.

        Raises: BudgetError: the budget was not published.
        """
        take_published(cls.__name__, PAPER_BUDGETS, retain)
        return cls(retain=retain, positions="renumber")

    @property
    def encoder_needs(self) -> tuple[EncoderNeed, ...]:
        """The attention that patches receive in the middle block and where features are made."""
        return EncoderNeed("received", self.object_block), EncoderNeed("received")

    def select(self, view: View) -> Selection:
        """Keep anchors, their neighbours and registers of each image."""
        layout, device = require_grids(self, view.layout), view.hidden.device
        middle = view.encoder.received(self.object_block)  # (G, V)
        late = view.encoder.received()

        def choose(grid: PatchGrid, count: int) -> torch.Tensor:
            tokens, anchors = (
                grid.tokens.to(device, non_blocking=True),
                count_anchors(count, self.alpha),
            )
            return choose_hiprune(middle[:, tokens], late[:, tokens], count, anchors, grid.size[1])

        keep = choose_by_grid(layout, view.keep_count, len(view.hidden), device, choose)
        return Selection(keep, score=late)
