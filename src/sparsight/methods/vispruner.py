"""VisPruner: half of the tokens by the class token's attention, half by leaving look-alikes out.

Source: "Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs",
arXiv 2412.01818 v2 (ICCV 2025); authors' code github.com/Theia-4869/VisPruner (Apache-2.0).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch

from sparsight.errors import BudgetError, SettingError
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
from sparsight.methods.parts.encoder_choices import choose_vispruner
from sparsight.methods.view import Selection, View

PAPER_SHARES = {128: 0.5, 64: 0.75}  # share of the important tokens at each budget


@dataclass(frozen=True)
class VisPruner(Method):
    """VisPruner. It reads no text.

    Source: authors' code; the important tokens have the class token's attention in the block that
        made the features, the others are told apart by the cosine of these features.
    Differs:
        Any count works, where the code raises for some odd ones. Images share the count by their
        sizes (the code gives each tile of LLaVA-NeXT the same).
        The diverse half is chaotic: rounding decides each next round. Cosines are compared in
        float64 where the device has it, and no equality across dtypes and devices is promised.
        Tokens keep their positions unless told otherwise; the code renumbers, as `paper()` does.

    Args:
        ratio: share of the count that goes by attention, in [0, 1].
        score: whose attention: the "class" token's, or "received", what each patch receives from
            all, for encoders without a class token (no code of the authors).
        step: look-alikes that go in one round.
    """

    name: ClassVar[str] = "vispruner"
    summary: ClassVar[str] = "the class token's attention, then tokens without look-alikes"
    source: ClassVar[str] = "VisPruner, ICCV 2025, arXiv 2412.01818"
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_SHARES)
    signals: ClassVar[frozenset[str]] = frozenset({"layout", "encoder"})

    sites: tuple[int, ...] | None = INPUT
    ratio: float = 0.5
    score: Literal["class", "received"] = "class"
    step: int = 8

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        check_input_only(self)
        check_choice("score", self.score, SCORES)
        if not 0.0 <= self.ratio <= 1.0:
            raise SettingError(f"ratio={self.ratio!r} is out of range; give a number in [0, 1].")
        if self.step < 1:
            raise SettingError(f"step={self.step!r} is out of range; give an int >= 1.")

    @classmethod
    def paper(cls, retain: int) -> Self:
        """Return the authors' settings for LLaVA-1.5 at one of their budgets.

        Raises: BudgetError: the budget's share of important tokens was not published.
        """
        if retain not in PAPER_SHARES:
            raise BudgetError(
                f"{cls.__name__}.paper({retain!r}) was not published; choose "
                f"{', '.join(map(str, PAPER_SHARES))}, or {cls.__name__}(retain=...)."
            )
        return cls(retain=retain, ratio=PAPER_SHARES[retain], positions="renumber")

    @property
    def encoder_needs(self) -> tuple[EncoderNeed, ...]:
        """Features, and attention in the block that made them."""
        return EncoderNeed("features"), attention_need(self.score)

    def select(self, view: View) -> Selection:
        """Keep important and diverse tokens of each image."""
        score = read_attention(view.encoder, self.score)
        features = view.encoder.features()  # (G, V, D_enc)

        def choose(tokens: torch.Tensor, count: int) -> torch.Tensor:
            important, own = int(count * self.ratio), features[:, tokens]
            return choose_vispruner(score[:, tokens], own, count, important, self.step)

        return Selection(keep_by_grid(self, view, choose), score=score)
