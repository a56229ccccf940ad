"""Downscale, a baseline: the image scaled down before it is encoded, so that it has fewer patches."""

from dataclasses import dataclass
from math import isqrt
from typing import ClassVar

from sparsight.counts.layout import Grid, Layout, grids_layout
from sparsight.counts.schedule import Schedule, resolve_retain
from sparsight.errors import BudgetError, UnsupportedError
from sparsight.methods.baselines import Baseline, gridded
from sparsight.methods.method import Positions
from sparsight.methods.parts.cells import downscaled, scaled_partition
from sparsight.methods.view import Selection, View


@dataclass(frozen=True)
class Downscale(Baseline):
    """Downscale: the image scaled down before it is encoded, so that it has at most `retain` patches.

    Differs: both sides of the patch grid are scaled alike and rounded, so the count is often a
    little below the budget: 182 for 192 of 24 x 24, 121 for 128, 64 for 64. The pixels are scaled
    after normalisation, by bicubic interpolation with antialiasing. Images of one batch are scaled
    alike.
    """

    name: ClassVar[str] = "downscale"
    summary: ClassVar[str] = "a smaller image, encoded into fewer visual tokens"

    positions: Positions = "renumber"

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        self.check_input_only()

    @property
    def scales_images(self) -> bool:
        """Whether images are scaled down before the image encoder sees them: they are."""
        return True

    def image_grid(self, layout: Layout) -> Grid:
        """Return the grid of visual tokens that each image of a sample is scaled down to.

        Raises:
            BudgetError: less than one token for each image.
            UnsupportedError: images of different sizes.
        """
        grids = layout.sizes
        if len(set(grids)) > 1:
            raise UnsupportedError(
                f"Downscale needs images of one size, these have {grids}; use Pool instead."
            )
        height, width = grids[0]
        most = int(self._wanted(len(grids) * height * width) / len(grids) + 1e-9)
        if most < 1:
            raise BudgetError(
                f"retain={self.retain} leaves less than one token for each of {len(grids)} images; "
                f"give a count >= {len(grids)} or a larger fraction."
            )
        return downscaled(grids[0], most)

    def schedule(self, visual_tokens: int, layers: int) -> Schedule:
        """Plan the count of one square image."""
        side = isqrt(visual_tokens)
        layout = grids_layout([(side, side)]) if side * side == visual_tokens else None
        return self.schedule_on(layout, visual_tokens, layers)

    def schedule_on(self, layout: Layout | None, visual_tokens: int, layers: int) -> Schedule:
        """Plan the count of images whose layout is known."""
        count = visual_tokens
        if self._wanted(visual_tokens) < visual_tokens:
            layout = gridded(self, layout)
            height, width = self.image_grid(layout)
            count = len(layout.grids) * height * width
        return Schedule(visual_tokens, layers, self.sites_for(layers), (count,), (0,))

    def _wanted(self, visual_tokens: int) -> float:
        return resolve_retain(1.0 if self.retain is None else self.retain, visual_tokens)

    def select(self, view: View) -> Selection:
        """Keep one token for each patch that was encoded; its neighbours hold copies."""
        layout = gridded(self, view.layout)
        centres = scaled_partition(layout, self.image_grid(layout))[1]
        return Selection(centres.to(view.hidden.device).expand(len(view.hidden), -1))
