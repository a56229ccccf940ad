"""PruneSID: groups by principal components, look-alikes suppressed in each, shares by what is left.

Source: "Prune Redundancy, Preserve Essence: Vision Token Compression in VLMs via Synergistic
Importance-Diversity", ICLR 2026, arXiv 2603.09480. Written from the description of the method, not
from its code.
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
from sparsight.methods.parts.prunesid import choose_prunesid, weigh_components
from sparsight.methods.view import Selection, View

PAPER_BUDGETS = {192: (192,), 128: (128,), 64: (64,)}
TOKENS_A_GROUP = 4


@dataclass(frozen=True)
class PruneSID(Method):
    """PruneSID. It reads no text.

    Source: authors' code; tokens are grouped by the principal component of the features on which
        they weigh most; in each group the class token's best suppress those too much like them, and
        groups share the count by the survivors.
    Differs:
        The class token, which the code counts as one of the tokens and hands on, is not handed to
        the decoder; the count has one patch more instead.
        Components are exact, where the code's are random and differ from run to run.
        Images share the count by their sizes (the code gives each tile of LLaVA-NeXT the same).
        Tokens come in raster order (the code goes group by group), and keep their positions unless
        told otherwise; the code renumbers, as `paper()` does.
        A ratio that follows the image, of which the paper speaks, is not there; nor in the code.
        How many steps the suppression takes depends on the tokens: each step, and the analysis,
        waits for the device.

    Args:
        score: what ranks tokens: the "class" token's attention; or, for encoders without a class
            token, "loading", how much a token weighs on its component, with a threshold of at least
            the mean cosine, as the code for Qwen2.5-VL has it, or "received", the attention that
            each patch receives from all (no code of the authors).
    """

    name: ClassVar[str] = "prunesid"
    summary: ClassVar[str] = "groups by principal components, look-alikes suppressed in each"
    source: ClassVar[str] = "PruneSID, ICLR 2026, arXiv 2603.09480"
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_BUDGETS)
    signals: ClassVar[frozenset[str]] = frozenset({"layout", "encoder"})

    sites: tuple[int, ...] | None = INPUT
    score: Literal["class", "received", "loading"] = "class"

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        check_input_only(self)
        check_choice("score", self.score, (*SCORES, "loading"))

    @classmethod
    def paper(cls, retain: int) -> Self:
        """Return the published settings for LLaVA-1.5; they are the same at every budget.

        Raises: BudgetError: no figures were published for the budget.
        """
        take_published(cls.__name__, PAPER_BUDGETS, retain)
        return cls(retain=retain, positions="renumber")

    @property
    def encoder_needs(self) -> tuple[EncoderNeed, ...]:
        """Features, and attention in the block that made them unless loadings rank."""
        features = EncoderNeed("features")
        return (features,) if self.score == "loading" else (features, attention_need(self.score))

    def select(self, view: View) -> Selection:
        """Keep survivors of each image's groups, and the best of the others."""
        features, group = view.encoder.features(), len(view.hidden)  # (G, V, D_enc)
        ranked = None
        if self.score != "loading":
            ranked = read_attention(view.encoder, self.score)

        def choose(tokens: torch.Tensor, count: int) -> torch.Tensor:
            present, own = len(tokens), features[:, tokens]
            if count == present:
                return torch.arange(present, device=tokens.device).expand(group, -1)
            groups = min(max(1, count // TOKENS_A_GROUP), own.shape[-1])
            score, labels = weigh_components(own, groups).max(dim=-1)
            factor = None
            if ranked is None:
                factor = max(18 * count / present, 1.0)  # count / 32 of 576, at least 1
            else:
                score = ranked[:, tokens]
            return choose_prunesid(score, own, labels, count, count, factor=factor)

        return Selection(keep_by_grid(self, view, choose), score=ranked)
