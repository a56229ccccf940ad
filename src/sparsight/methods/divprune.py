"""DivPrune: tokens as far apart as possible, with Cen-Prune's centring as an option.

Source: "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models", CVPR 2025,
arXiv 2503.02175; Cen-Prune, arXiv 2608.30263. Written from the papers.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from sparsight.counts.published import take_published
from sparsight.methods.encoder import EncoderNeed
from sparsight.methods.input_only import INPUT, check_input_only
from sparsight.methods.method import Method, Space, check_choice
from sparsight.methods.parts.by_grid import keep_order
from sparsight.methods.parts.choosers import choose_max_min
from sparsight.methods.spaces import SPACES, compare_in, list_space_needs, read_points
from sparsight.methods.view import Selection, View

PAPER_BUDGETS = {192: (192,), 128: (128,), 64: (64,)}


@dataclass(frozen=True)
class DivPrune(Method):
    """DivPrune. It needs no class token, and reads no text.

    Source: max-min diversity with distance 1 - cosine, all visual tokens of a sample together, from
        the token whose nearest neighbour is farthest.
    Differs:
        Every image keeps at least one token where the count allows it.
        Row ends of LLaVA-NeXT are equal; which of them are kept is left to rounding.
        Tokens keep their positions unless told otherwise; the source renumbers, as `paper()` does.

    Args:
        centred: Cen-Prune: distances are those of tokens from which their mean was taken, and
            after the first token they are multiplied by how distinctive a token is.
        space: where tokens are compared: as "tokens" of the decoder, or as "features" of the image
            encoder before the projector, standardised for each channel when `centred`. Cen-Prune
            takes "tokens" for LLaVA and "features" for Qwen2.5-VL, one of whose channels would
            decide alone.
    """

    name: ClassVar[str] = "divprune"
    summary: ClassVar[str] = "visual tokens as far apart as possible; Cen-Prune with centred"
    source: ClassVar[str] = "DivPrune, CVPR 2025, arXiv 2503.02175; Cen-Prune, arXiv 2608.30263"
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_BUDGETS)
    signals: ClassVar[frozenset[str]] = frozenset({"encoder"})  # with space="features"

    sites: tuple[int, ...] | None = INPUT
    centred: bool = False
    space: Space = "tokens"

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        check_choice("space", self.space, SPACES)
        check_input_only(self)

    @classmethod
    def paper(cls, retain: int) -> Self:
        """Return DivPrune's settings for LLaVA-1.5; they are the same at every budget.

        Raises: BudgetError: no figures were published for the budget.
        """
        take_published(cls.__name__, PAPER_BUDGETS, retain)
        return cls(retain=retain, positions="renumber")

    @property
    def encoder_needs(self) -> tuple[EncoderNeed, ...]:
        """Features, where tokens are compared as such."""
        return list_space_needs(self.space)

    def select(self, view: View) -> Selection:
        """Keep tokens that are far from each other."""
        compared = compare_in(self.space, read_points(view, self.space), centred=self.centred)
        order = choose_max_min(compared.similarity.hold(), view.keep_count, compared.weight)
        keep, score = keep_order(order, view.images)
        return Selection(keep, score=score)
