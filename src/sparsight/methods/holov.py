"""HoloV: strips of an image share the count by attention and variety, best attention in each.

Source: "Don't Just Chase 'Highlighted Tokens' in MLLMs: Revisiting Visual Holistic Context
Retention", NeurIPS 2025, arXiv 2510.02912; authors' code (Apache-2.0).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch

from sparsight.counts.published import take_published
from sparsight.errors import SettingError
from sparsight.methods.encoder import EncoderNeed
from sparsight.methods.input_only import (
    INPUT,
    SCORES,
    attention_need,
    check_input_only,
    keep_by_grid,
    read_attention,
)
from sparsight.methods.method import Method, check_choice
from sparsight.methods.parts.window_choices import choose_holov, count_strips
from sparsight.methods.view import Selection, View

PAPER_STRIPS = {192: (5,), 128: (8,), 64: (16,)}  # 1024 / K


@dataclass(frozen=True)
class HoloV(Method):
    """HoloV. It reads no text.

    Source: authors' code; strips are runs of the raster order, and share the count by their mean
        attention plus the variance of their tokens' likenesses after the projector; each keeps the
        tokens of highest attention.
    Differs:
        Exactly the count is kept: what a strip cannot hold goes to others (the code fills up with
        zero vectors). Images share the count by their sizes.
        The code for LLaVA has 16 strips and 64 tokens written in; other counts have the strips of
        its code for Qwen2.5-VL, 1024 / 576 of N / K, which are 16 there too.
        Tokens come in raster order (the code sorts a strip's by attention), and keep their
        positions unless told otherwise; the code renumbers, as `paper()` does.

    Args:
        strips: of each image, each of two tokens at least, so that a small image has fewer; None
            for 16 N / 9 K, rounded down.
        score: whose attention: the "class" token's, or "received", what each patch receives from
            all, for encoders without a class token.
    """

    name: ClassVar[str] = "holov"
    summary: ClassVar[str] = "the class token's attention, shared out to strips of the image"
    source: ClassVar[str] = "HoloV, NeurIPS 2025, arXiv 2510.02912"
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_STRIPS)
    signals: ClassVar[frozenset[str]] = frozenset({"layout", "encoder"})

    sites: tuple[int, ...] | None = INPUT
    strips: int | None = None
    score: Literal["class", "received"] = "class"

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        check_input_only(self)
        check_choice("score", self.score, SCORES)
        if self.strips is not None and self.strips < 1:
            raise SettingError(
                f"strips={self.strips!r} is out of range; give an int >= 1, or None for a number "
                "that fits the count."
            )

    @classmethod
    def paper(cls, retain: int) -> Self:
        """Return the settings for LLaVA-1.5 at one of the published budgets.

        Differs: the authors' code has those of 64 tokens; others ran it with 1024 / K strips.

        Raises: BudgetError: no figures were published for the budget.
        """
        strips = take_published(cls.__name__, PAPER_STRIPS, retain)[0]
        return cls(retain=retain, strips=strips, positions="renumber")

    @property
    def encoder_needs(self) -> tuple[EncoderNeed, ...]:
        """Attention in the block that made the features."""
        return (attention_need(self.score),)

    def select(self, view: View) -> Selection:
        """Keep the tokens of each image that its strips are allowed."""
        score = read_attention(view.encoder, self.score)

        def choose(tokens: torch.Tensor, count: int) -> torch.Tensor:
            present = len(tokens)
            if count == present:
                return torch.arange(present, device=tokens.device).expand(len(score), -1)
            strips = count_strips(present, count) if self.strips is None else self.strips
            strips = min(strips, present // 2)
            return choose_holov(score[:, tokens], view.hidden[:, tokens], count, strips)

        return Selection(keep_by_grid(self, view, choose), score=score)
