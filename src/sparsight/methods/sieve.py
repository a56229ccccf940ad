"""SIEVE: attention of the text times what the text does not explain, in the space of the latter.

Source: SIEVE, 2026; written from a description of the paper. No code of it is public.
"""

from dataclasses import dataclass
from typing import ClassVar

from sparsight.errors import SettingError
from sparsight.methods.method import Method
from sparsight.methods.parts.by_grid import keep_order
from sparsight.methods.parts.choosers import choose_discounted
from sparsight.methods.parts.geometry import compare
from sparsight.methods.parts.words import measure_residual, sum_strongest_heads
from sparsight.methods.view import Selection, View
from sparsight.methods.voting import check_heads, count_heads


@dataclass(frozen=True)
class SIEVE(Method):
    """SIEVE.

    Source: the score is the square of attention times residual ratio. Attention is that of all text
        behind the images in the layer before the site, over the heads that pay most to the images.
        The residual of a visual token is what a ridge regression on the hidden states of that text
        leaves over, and its ratio the share of the token's length. After each choice, scores fall
        by the squared cosine of the residuals to the token that was chosen.
    Differs:
        The layers and the counts of each layer are not in the description. Sites are SparseVLM's,
        scaled, and counts are solved from the budget; so there are no settings of `paper()`.
        Attention is the mean over the text (the paper takes the sum), which changes no order.
        All images of a sample are one set of tokens; every image keeps at least one where the count
        allows it, in place of the token chosen last.
        On a GPU it waits once a site, as torch checks the eigenvalues that set the ridge.

    Args:
        heads: heads that vote: an int is a count, a float in (0, 1] the fraction (the paper's 12 of
            32).
        eta: share of the text's variance, in (0, 1): the ridge is the first eigenvalue at which the
            cumulative share reaches it.
    """

    name: ClassVar[str] = "sieve"
    summary: ClassVar[str] = "attention times what the text does not explain, and no repetitions"
    source: ClassVar[str] = "SIEVE, 2026, no arXiv number known"
    signals: ClassVar[frozenset[str]] = frozenset({"attention", "text_states"})

    heads: float = 12 / 32
    eta: float = 0.75

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        check_heads(self.heads)
        if not 0.0 < self.eta < 1.0:
            raise SettingError(f"eta={self.eta!r} is out of range; give a share in (0, 1).")

    def select(self, view: View) -> Selection:
        """Keep tokens that the text attends to, does not explain, and that do not repeat others."""
        attention, text = view.attention, view.text_states
        if attention is None or text is None:
            raise SettingError(
                "SIEVE needs rater attention and the text's hidden states; a view without them "
                "cannot be rated."
            )
        per_head = attention.mean_over_raters()  # (G, H, V)
        paid = sum_strongest_heads(per_head, count_heads(self.heads, per_head.shape[1]))  # (G, V)
        residual = measure_residual(view.hidden, text.values, self.eta, present=text.present)
        score = (paid * residual.ratio).square()
        order = choose_discounted(score, compare(residual.points).hold(), view.keep_count)
        keep, rank = keep_order(order, view.images)
        return Selection(keep, score=rank)
