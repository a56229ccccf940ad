"""FasterVLM: the patches that the class token of the image encoder attends to most.

Source: "[CLS] Attention is All You Need for Training-Free Visual Token Pruning: Make VLM Inference
Faster", arXiv 2412.01818 v1; authors' code github.com/Theia-4869/FasterVLM (Apache-2.0).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch

from sparsight.counts.published import take_published
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
from sparsight.methods.parts.choosers import top_k
from sparsight.methods.view import Selection, View

# 50 to 95 % of 576 dropped
PAPER_BUDGETS = {288: (288,), 144: (144,), 58: (58,), 29: (29,)}


@dataclass(frozen=True)
class FasterVLM(Method):
    """FasterVLM. It reads no text.

    Source: authors' code; the class token's attention in the block that made the features, mean
        over heads.
    Differs:
        Images share the count by their sizes (the code gives each tile of LLaVA-NeXT the same).
        Tokens keep their positions unless told otherwise; the code renumbers, as `paper()` does.

    Args:
        score: whose attention: the "class" token's, or "received", what each patch receives from
            all, for encoders without a class token (no code of the authors).
    """

    name: ClassVar[str] = "fastervlm"
    summary: ClassVar[str] = "the class token's attention in the image encoder"
    source: ClassVar[str] = "FasterVLM, 2024, arXiv 2412.01818 v1"
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_BUDGETS)
    signals: ClassVar[frozenset[str]] = frozenset({"layout", "encoder"})

    sites: tuple[int, ...] | None = INPUT
    score: Literal["class", "received"] = "class"

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        check_input_only(self)
        check_choice("score", self.score, SCORES)

    @classmethod
    def paper(cls, retain: int) -> Self:
        """Return the authors' settings for LLaVA-1.5; they are the same at every budget.

        Raises: BudgetError: the budget was not published.
        """
        take_published(cls.__name__, PAPER_BUDGETS, retain)
        return cls(retain=retain, positions="renumber")

    @property
    def encoder_needs(self) -> tuple[EncoderNeed, ...]:
        """Attention in the block that made the features."""
        return (attention_need(self.score),)

    def select(self, view: View) -> Selection:
        """Keep the tokens of each image that are attended to most."""
        score = read_attention(view.encoder, self.score)

        def choose(tokens: torch.Tensor, count: int) -> torch.Tensor:
            return top_k(score[:, tokens], count)

        return Selection(keep_by_grid(self, view, choose), score=score)
