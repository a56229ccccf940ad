"""Downscale, a baseline that scales the image down before it is encoded, into fewer patches."""

from dataclasses import dataclass
from typing import ClassVar

from sparsight.counts.budget import resolve_retain
from sparsight.counts.layout import Grid, Layout, count_tokens
from sparsight.counts.schedule import Schedule
from sparsight.errors import BudgetError, UnsupportedError
from sparsight.methods.baselines import Baseline
from sparsight.methods.method import Positions, require_grids
from sparsight.methods.parts.cells import downscaled, scaled_partition
from sparsight.methods.view import Selection, View


@dataclass(frozen=True)
class Downscale(Baseline):
    """Downscale: images scaled down before they are encoded, to at most `retain` patches a sample.

    Differs: both sides of the patch grid are scaled alike and rounded, so the count is often a
    little below the budget: 182 for 192 of 24 x 24, 121 for 128, 64 for 64. The pixels are scaled
    after normalisation, by bicubic interpolation with antialiasing. Images of one batch are scaled
    alike.
    """

    name: ClassVar[str] = "downscale"
    summary: ClassVar[str] = "a smaller image, encoded into fewer visual tokens"
    signals: ClassVar[frozenset[str]] = frozenset({"layout"})
    scales_images: ClassVar[bool] = True

    positions: Positions = "renumber"

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        self.check_input_only()

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan the grid that each image is scaled down to, and one visual token for each patch.

        Raises:
            BudgetError: the budget leaves less than one token for each image.
            UnsupportedError: tokens are to be pruned, and the layout is not known, shows no grid,
                or shows grids of different sizes.
        """
        visual_tokens, sites = count_tokens(layout), self.list_sites(layers)
        if resolve_retain(self.retain, visual_tokens) >= visual_tokens:
            return Schedule(visual_tokens, layers, sites, (visual_tokens,), (0,))
        layout = require_grids(self, layout)
        height, width = self._choose_grid(layout)
        count = len(layout.grids) * height * width
        return Schedule(visual_tokens, layers, sites, (count,), (0,), image_grid=(height, width))

    def _choose_grid(self, layout: Layout) -> Grid:
        """Return the grid that each image of a sample is scaled down to.

        A budget speaks of patches here: row ends and class tokens are not kept.
        """
        grids = layout.sizes
        if len(set(grids)) > 1:
            raise UnsupportedError(
                f"Downscale needs images of one size, these have {grids}; use Pool instead."
            )
        height, width = grids[0]
        budget = resolve_retain(self.retain, len(grids) * height * width)
        most = int(budget / len(grids) + 1e-9)  # patches of each image
        if most < 1:
            raise BudgetError(
                f"retain={self.retain} leaves less than one token for each of {len(grids)} images; "
                f"give a count >= {len(grids)} or a larger fraction."
            )
        return downscaled(grids[0], most)

    def select(self, view: View) -> Selection:
        """Keep one token for each patch that was encoded; the tokens around it hold copies."""
        layout = require_grids(self, view.layout)
        centres = scaled_partition(layout, self._choose_grid(layout))[1]  # (K,) on the host
        return Selection(
            centres.to(view.hidden.device, non_blocking=True).expand(len(view.hidden), -1)
        )
