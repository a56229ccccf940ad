"""SCOPE: tokens that cover the image, weighed by the class token's attention.

Source: "SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodal LLMs", NeurIPS
2025, arXiv 2510.24214. Written from the description of the method, not from its code.
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
from sparsight.methods.parts.coverage import choose_coverage
from sparsight.methods.parts.geometry import compare
from sparsight.methods.view import Selection, View

PAPER_BUDGETS = {192: (192,), 128: (128,), 64: (64,)}


@dataclass(frozen=True)
class SCOPE(Method):
    """SCOPE. It reads no text.

    Source: each step takes the token whose cosine to tokens not yet covered adds most, times its
        attention; features and the class token's attention of the block that made them.
    Differs:
        Gains are brought up to date instead of summed anew; the tokens are those of the source,
        except where rounding decides. Images share the count by their sizes (the source gives each
        tile of LLaVA-NeXT the same).
        Tokens keep their positions unless told otherwise; the source renumbers, as `paper()` does.

    Args:
        alpha: exponent of the attention, at least 0; 0 leaves coverage alone.
        score: whose attention: the "class" token's, or "received", what each patch receives from
            all, for encoders without a class token (as ports to Qwen2.5-VL do).
    """

    name: ClassVar[str] = "scope"
    summary: ClassVar[str] = "coverage of the image, weighed by the class token's attention"
    source: ClassVar[str] = "SCOPE, NeurIPS 2025, arXiv 2510.24214"
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_BUDGETS)
    signals: ClassVar[frozenset[str]] = frozenset({"layout", "encoder"})

    sites: tuple[int, ...] | None = INPUT
    alpha: float = 1.0
    score: Literal["class", "received"] = "class"

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        check_input_only(self)
        check_choice("score", self.score, SCORES)
        if self.alpha < 0:
            raise SettingError(f"alpha={self.alpha!r} is out of range; give a number >= 0.")

    @classmethod
    def paper(cls, retain: int) -> Self:
        """Return the published settings for LLaVA-1.5; they are the same at every budget.

        Raises: BudgetError: no figures were published for the budget.
        """
        take_published(cls.__name__, PAPER_BUDGETS, retain)
        return cls(retain=retain, positions="renumber")

    @property
    def encoder_needs(self) -> tuple[EncoderNeed, ...]:
        """Features, and attention in the block that made them."""
        return EncoderNeed("features"), attention_need(self.score)

    def select(self, view: View) -> Selection:
        """Keep the tokens of each image that cover it best."""
        score = read_attention(view.encoder, self.score)
        features = view.encoder.features()  # (G, V, D_enc)

        def choose(tokens: torch.Tensor, count: int) -> torch.Tensor:
            similarity = compare(features[:, tokens]).hold()
            return choose_coverage(similarity, count, factor=score[:, tokens] ** self.alpha)

        return Selection(keep_by_grid(self, view, choose), score=score)
