"""FastV: tokens of highest attention from the last token of the prompt, after an early layer.

Source: "An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference Acceleration for Large
Vision-Language Models", ECCV 2024, arXiv 2403.06764. Written from a description of paper and code.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch

from sparsight.counts.budget import resolve_retain
from sparsight.counts.layout import Layout, count_tokens
from sparsight.counts.published import check_kept, choose_kept, take_published
from sparsight.counts.schedule import Schedule
from sparsight.errors import SettingError
from sparsight.methods.last_token import choose_last, select_by_attention
from sparsight.methods.method import Method, check_choice, read_whole_numbers
from sparsight.methods.view import Selection, View

AFTER = (2,)  # "after layer 2": the layer with index 2 is the first short one
PAPER_KEPT = {432: (432,), 288: (288,), 144: (144,), 72: (72,)}  # 25 to 87.5 % of 576 dropped


@dataclass(frozen=True)
class FastV(Method):
    """FastV.

    Source: the attention that the last token of the prompt pays in the layer before the site, mean
        over heads; authors' code. The paper speaks of the attention received from all tokens.
    Differs:
        Every image keeps its best token. All samples of a batch are pruned (the code looks at the
        first), and images stand where they stand (the code has one place written in).
        A budget is the mean of the tokens that enter each layer, those before the site included:
        192 of 576 tokens and 32 layers are 166 kept. `paper()` takes the tokens kept.

    Args:
        rater: which text behind the images rates them: the "last" token (the code), or "all" of it,
            which comes nearer to the paper.
        kept: tokens kept at the site, instead of a count solved from `retain`.
    """

    name: ClassVar[str] = "fastv"
    summary: ClassVar[str] = "attention of the prompt's last token, one early site"
    source: ClassVar[str] = "FastV, ECCV 2024, arXiv 2403.06764"
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_KEPT)
    signals: ClassVar[frozenset[str]] = frozenset({"attention"})

    sites: tuple[int, ...] | None = AFTER
    rater: Literal["last", "all"] = "last"
    kept: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        check_choice("rater", self.rater, ("last", "all"))
        if self.sites is None or len(self.sites) != 1:
            raise SettingError(f"FastV has one site; sites={self.sites}, give one, such as (2,).")
        if self.kept is not None:
            object.__setattr__(self, "kept", read_whole_numbers("kept", self.kept))
            check_kept(self.kept, self.sites)

    @classmethod
    def paper(cls, retain: int) -> Self:
        """Return the authors' settings: K = 2, and this many of 576 tokens kept behind it.

        Differs: `retain` names the tokens kept, as the source does; 288 of 576 have a layer mean of
            306. A sample with no more visual tokens keeps all.

        Raises: BudgetError: the number was not published.
        """
        return cls(retain=retain, kept=take_published(cls.__name__, PAPER_KEPT, retain))

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan the tokens kept at the site."""
        visual_tokens = count_tokens(layout)
        kept = choose_kept(type(self).__name__, self.kept, self.retain, visual_tokens)
        if kept is None or resolve_retain(self.retain, visual_tokens) >= visual_tokens:
            return super().plan(layout, layers)
        return Schedule(visual_tokens, layers, self.list_sites(layers), kept, (0,))

    def raters(self, visual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Choose the last token, or all."""
        return choose_last(text) if self.rater == "last" else super().raters(visual, text)

    def select(self, view: View) -> Selection:
        """Keep the tokens that the raters attend to most."""
        return select_by_attention(self, view)
