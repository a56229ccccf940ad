"""PixelPrune: patches whose pixels their neighbours predict never enter the image encoder.

Source: "PixelPrune", arXiv 2604.00886; authors' code github.com/OPPO-Mente-Lab/PixelPrune
(Apache-2.0).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparsight.counts.budget import EPSILON, resolve_retain
from sparsight.counts.layout import Grid, Layout, count_tokens
from sparsight.counts.schedule import Schedule
from sparsight.errors import BudgetError, SettingError
from sparsight.methods.encoder import EncoderNeed
from sparsight.methods.input_only import INPUT, check_input_only
from sparsight.methods.method import Method, check_choice
from sparsight.methods.parts.patches import Metric, mark_unpredicted
from sparsight.methods.view import Selection, View

METRICS = ("max", "mean", "rms")


@dataclass(frozen=True)
class PixelPrune(Method):
    """PixelPrune. It reads no text, and shortens the encoder too.

    Source: authors' code; a token is left out where its pixels are those of its upper neighbour, if
        the upper left one is like the left one and unlike the upper one, and else of its left
        neighbour; the first row looks left, the first column up. A token that is left out counts as
        what was predicted. The others alone go through the encoder, at their own positions.
    Differs:
        How many tokens stay is up to the image: all of a photograph, a third of many a document.
        `retain` bounds it and chooses nothing: an image that needs more is refused.
        Both frames of a video's patch are compared, where the code looks at one.

    Args:
        retain: the most tokens that a sample may keep, as a count or a fraction; None for no bound.
            1.0, and a count that is not below the sample's tokens, leave the model as it is.
        tau: difference of colours, in [0, 1], up to which pixels are alike; 0 leaves out none but
            equal ones.
        metric: how the differences of a token's pixels become one, with tau above 0: the largest,
            their mean, or the root of their mean square.
    """

    name: ClassVar[str] = "pixelprune"
    summary: ClassVar[str] = "patches that repeat their neighbours' pixels are not encoded"
    source: ClassVar[str] = "PixelPrune, arXiv 2604.00886"
    signals: ClassVar[frozenset[str]] = frozenset({"encoder"})
    adaptive: ClassVar[bool] = True

    retain: float | None = None
    sites: tuple[int, ...] | None = INPUT
    tau: float = 0.0
    metric: Metric = "max"

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        check_input_only(self)
        check_choice("metric", self.metric, METRICS)
        if not 0.0 <= self.tau <= 1.0:
            raise SettingError(f"tau={self.tau!r} is out of range; give a number in [0, 1].")
        if self.tau == 0 and self.metric != "max":
            raise SettingError(
                f"metric={self.metric!r} has no effect on equal pixels; give tau above 0, or leave "
                "metric out."
            )

    @property
    def encoder_needs(self) -> tuple[EncoderNeed, ...]:
        """Which patches the encoder was given."""
        return (EncoderNeed("encoded"),)

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan the most tokens that may stay."""
        visual_tokens, sites = count_tokens(layout), self.list_sites(layers)
        budget = resolve_retain(self.retain, visual_tokens)
        if self.retain is not None and budget >= visual_tokens:
            return Schedule(visual_tokens, layers, sites, (visual_tokens,), (0,))
        most = max(1, int(budget + EPSILON))
        return Schedule(visual_tokens, layers, sites, (most,), (0,), exact=False)

    def mark_patches(self, pixels: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Return which tokens' pixels are not those that their neighbours predict, (F, V) bool."""
        return mark_unpredicted(pixels, grid, self.tau, self.metric)

    def select(self, view: View) -> Selection:
        """Keep the tokens that were encoded; a view is a group of one, as counts differ.

        Raises: BudgetError: they are more than may stay.
        """
        keep = view.encoder.encoded()[0].nonzero().flatten()  # waits for the device
        if len(keep) > view.count:
            raise BudgetError(
                f"{len(keep)} of {view.hidden.shape[1]} visual tokens differ from what their "
                f"neighbours predict, more than the {view.count} of retain={self.retain}; give "
                f"retain=None, or tau above {self.tau:g}."
            )
        return Selection(keep[None])
