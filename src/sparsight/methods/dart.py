"""DART: the visual tokens least like a few pivots, tokens of image and text with large keys.

Source: "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More",
EMNLP 2025, arXiv 2502.11494; a fork of the authors' code (Apache-2.0).
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from sparsight.counts.budget import resolve_retain
from sparsight.counts.layout import Layout, count_tokens
from sparsight.counts.published import check_kept, choose_kept, take_published
from sparsight.counts.schedule import Schedule
from sparsight.errors import SettingError
from sparsight.methods.method import Method, read_whole_numbers
from sparsight.methods.parts.by_grid import keep_order
from sparsight.methods.parts.decoder_choices import choose_pivots, choose_unlike_pivots
from sparsight.methods.parts.scores import measure_key_norm
from sparsight.methods.view import Selection, View

AFTER = (2,)  # sparse from layer 2 on, by what layer 1 computed
PIVOTS = 4  # of the image, and as many of the text
# four pivots of the image, and for each of the eight pivots an eighth of the budget
PAPER_KEPT = {192: (196,), 128: (132,), 64: (68,)}


@dataclass(frozen=True)
class DART(Method):
    """DART.

    Source: pivots are the four visual tokens and the four tokens of the text behind them whose keys
        in the layer before the site have the largest L1 norms, after rotation and over all heads.
        Pivot after pivot chooses visual tokens that nobody chose, those whose hidden states behind
        the decoder's final norm are least like its own. Tokens keep their positions.
    Differs:
        Pivots choose by falling norm, those of the image first. The code walks a Python set, whose
        order says nothing and changes what is kept.
        The code keeps four tokens more than a multiple of eight; here what a count has beyond that
        goes to the first pivots, one token each. A count of no more than `image_pivots` keeps the
        first of these. A text of fewer tokens than `text_pivots` has them as pivots again, in turn.
        A budget is the mean of the tokens that enter each layer, those before the site included:
        192 of 576 tokens and 32 layers are 166 kept. `paper()` takes the tokens kept.
        All images of a sample are one set of tokens; every image keeps at least one where the count
        allows it, in place of the token chosen last.

    Args:
        kept: tokens kept at the site, instead of a count solved from `retain`.
        image_pivots: visual tokens that choose, and stay.
        text_pivots: tokens of the text that choose.
    """

    name: ClassVar[str] = "dart"
    summary: ClassVar[str] = "visual tokens least like pivots of image and text, one early site"
    source: ClassVar[str] = "DART, EMNLP 2025, arXiv 2502.11494"
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_KEPT)
    signals: ClassVar[frozenset[str]] = frozenset({"text_states", "decoder_keys", "norm"})

    sites: tuple[int, ...] | None = AFTER
    kept: tuple[int, ...] | None = None
    image_pivots: int = PIVOTS
    text_pivots: int = PIVOTS

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        if self.sites is None or len(self.sites) != 1:
            raise SettingError(f"DART has one site; sites={self.sites}, give one, such as (2,).")
        if self.kept is not None:
            object.__setattr__(self, "kept", read_whole_numbers("kept", self.kept))
            check_kept(self.kept, self.sites)
        for field in ("image_pivots", "text_pivots"):
            count = getattr(self, field)
            if count < 1:
                raise SettingError(f"{field}={count!r} is out of range; give an int >= 1.")

    @classmethod
    def paper(cls, retain: int) -> Self:
        """Return the authors' settings for LLaVA-1.5 at one of their budgets.

        Differs: `retain` names the budget of the source, whose code keeps 8 floor(retain / 8) + 4
            tokens behind the site: 132 for 128, which is a layer mean of 160. A sample with no more
            visual tokens than `retain` keeps all.

        Raises: BudgetError: the budget was not published.
        """
        return cls(retain=retain, kept=take_published(cls.__name__, PAPER_KEPT, retain))

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan the tokens kept at the site."""
        visual_tokens = count_tokens(layout)
        kept = choose_kept(type(self).__name__, self.kept, self.retain, visual_tokens)
        if kept is None or resolve_retain(self.retain, visual_tokens) >= visual_tokens:
            return super().plan(layout, layers)
        return Schedule(visual_tokens, layers, self.list_sites(layers), kept, (0,))

    def select(self, view: View) -> Selection:
        """Keep the pivots among the visual tokens, and what each pivot is least like."""
        if view.decoder_keys is None or view.text_states is None or view.norm is None:
            raise SettingError(
                "DART needs keys, the text's hidden states and the final norm; a view without them "
                "has no pivots."
            )
        hidden = view.norm(torch.cat([view.hidden, view.text_states.values], dim=1))
        places = torch.arange(hidden.shape[1], device=hidden.device).expand(len(hidden), -1)
        keys, present = view.decoder_keys, view.hidden.shape[1]
        norms = [measure_key_norm(keys.visual), measure_key_norm(keys.text)]
        image_pivots = min(self.image_pivots, view.keep_count)
        pivots = choose_pivots(
            torch.cat(norms, dim=1),
            places[:, :present],
            places[:, present:],
            image_pivots,
            self.text_pivots,
            present=keys.present,
        )  # (G, P)
        counts = share_among_pivots(view.keep_count - image_pivots, pivots.shape[1])
        order = choose_unlike_pivots(hidden, pivots, places[:, :present], counts, image_pivots)
        keep, score = keep_order(order, view.images)
        return Selection(keep, score=score)


def share_among_pivots(count: int, pivots: int) -> tuple[int, ...]:
    """Return how many tokens each pivot chooses: as many as others, the first ones one more."""
    each, left = divmod(count, pivots)
    return tuple(each + 1 if pivot < left else each for pivot in range(pivots))
