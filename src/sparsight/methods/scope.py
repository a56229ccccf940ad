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
from sparsight.methods.method import Method, Space, check_choice
from sparsight.methods.parts.coverage import choose_coverage
from sparsight.methods.spaces import SPACES, compare_in, list_space_needs, read_points
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
        tile of LLaVA-NeXT the same). No paper joins it with Cen-Prune.
        Tokens keep their positions unless told otherwise; the source renumbers, as `paper()` does.

    Args:
        alpha: exponent of the attention, at least 0; 0 leaves coverage alone.
        score: whose attention: the "class" token's, or "received", what each patch receives from
            all, for encoders without a class token (as ports to Qwen2.5-VL do).
        space: where tokens are compared: as "features" of the image encoder before the projector,
            or as "tokens" of the decoder (as ports to Qwen2.5-VL do).
        centred: Cen-Prune as for `DivPrune`; the weight multiplies the attention.
    """

    name: ClassVar[str] = "scope"
    summary: ClassVar[str] = "coverage of the image, weighed by the class token's attention"
    source: ClassVar[str] = "SCOPE, NeurIPS 2025, arXiv 2510.24214"
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_BUDGETS)
    signals: ClassVar[frozenset[str]] = frozenset({"layout", "encoder"})

    sites: tuple[int, ...] | None = INPUT
    alpha: float = 1.0
    score: Literal["class", "received"] = "class"
    space: Space = "features"
    centred: bool = False

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        check_input_only(self)
        check_choice("score", self.score, SCORES)
        check_choice("space", self.space, SPACES)
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
        """Attention in the block that made the features; these, where tokens are compared so."""
        return attention_need(self.score), *list_space_needs(self.space)

    def select(self, view: View) -> Selection:
        """Keep the tokens of each image that cover it best."""
        score = read_attention(view.encoder, self.score)
        points = read_points(view, self.space)

        def choose(tokens: torch.Tensor, count: int) -> torch.Tensor:
            compared = compare_in(self.space, points[:, tokens], centred=self.centred)
            factor = compared.weigh(score[:, tokens] ** self.alpha)
            return choose_coverage(compared.similarity.hold(), count, factor=factor)

        return Selection(keep_by_grid(self, view, choose), score=score)
