"""Baselines: what a budget buys without looking at the question; see also `downscale`.

Each prunes the input unless other sites are given, so that a budget is the number of visual tokens
in every layer.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from sparsight.counts.layout import Layout
from sparsight.counts.schedule import Schedule
from sparsight.errors import SettingError, UnsupportedError
from sparsight.methods.method import Method
from sparsight.methods.parts.cells import partition
from sparsight.methods.parts.choosers import top_k
from sparsight.methods.parts.merging import merge
from sparsight.methods.view import Recycled, Selection, View

INPUT = (0,)


@dataclass(frozen=True)
class Baseline(Method):
    """A method that reads no attention.

    Args: sites: (0,), the input, by default; deeper ones get SparseVLM's counts without recycling.
    """

    sites: tuple[int, ...] | None = INPUT

    def check_input_only(self) -> None:
        """Raise SettingError if sites other than the input are given."""
        if self.sites != INPUT:
            raise SettingError(
                f"{type(self).__name__} works on the input alone; sites={self.sites}, give sites=(0,)."
            )


@dataclass(frozen=True)
class Random(Baseline):
    """Random: visual tokens drawn at random, each with the same chance.

    Differs: every image keeps at least one where the count allows it.

    Args:
        seed: of the draw. Site and number of tokens enter it too, the place in the batch does not:
            samples of equal size share a draw, so an evaluation should give each question a seed of
            its own.
    """

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "visual tokens drawn at random, each with the same chance"

    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise SettingError(f"seed={self.seed!r} is out of range; give an int >= 0.")

    def select(self, view: View) -> Selection:
        """Keep the tokens that come first in a random order."""
        present = view.hidden.shape[1]
        mixed = ((self.seed * 4099 + view.site) * 1_000_003 + present) % 2**63
        order = torch.randperm(present, generator=torch.Generator().manual_seed(mixed))
        score = order.to(view.hidden.device, torch.float32).expand(len(view.hidden), -1)
        return Selection(top_k(score, view.keep_count, view.images), score=score)


@dataclass(frozen=True)
class Gridded(Baseline):
    """A baseline that needs to know where in its image a visual token lies."""

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan the counts of a sample whose layout is known.

        Raises: UnsupportedError: it is not, or shows no grid, and tokens are to be pruned.
        """
        plan = super().plan(layout, layers)
        if plan.prunes:
            require_grids(self, layout)
        return plan


@dataclass(frozen=True)
class Uniform(Gridded):
    """Uniform: visual tokens spread evenly over each image.

    The first site keeps the token nearest to the centre of each of `count` compact cells; grids,
    such as tiles, frames and the two of a LLaVA-NeXT image, share the cells by their sizes. Row
    ends, class tokens and other tokens that are no patch are kept only where the count is higher
    than there are patches. What is present at a later site is no grid any more: there it is every V
    / count-th token in raster order.
    """

    name: ClassVar[str] = "uniform"
    summary: ClassVar[str] = "visual tokens spread evenly over each image"

    def select(self, view: View) -> Selection:
        """Keep evenly spread tokens."""
        layout, (group, present), count = (
            require_grids(self, view.layout),
            view.hidden.shape[:2],
            view.keep_count,
        )
        if present == len(layout):
            centres = partition(layout, count)[1].sort().values
            return Selection(centres.to(view.hidden.device).expand(group, -1))
        steps = torch.arange(count, device=view.hidden.device)
        spread = view.hidden.new_zeros(group, present, dtype=torch.float32)
        spread[:, (2 * steps + 1) * present // (2 * count)] = (
            1.0  # the middle of each of `count` equal stretches
        )
        return Selection(top_k(spread, count, view.images))


@dataclass(frozen=True)
class Pool(Gridded):
    """Pool: average pooling of visual tokens over compact cells of each image.

    Differs: cells may differ in size by a row or column, so that any count can be met. Each mean
    takes the place of its cell's middle token. Row ends, class tokens and other tokens that are no
    patch are dropped and enter no mean, unless there are more cells than patches.
    """

    name: ClassVar[str] = "pool"
    summary: ClassVar[str] = "average pooling of visual tokens over compact cells of each image"

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        self.check_input_only()

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan the number of cells: where tokens are pruned, each is the mean of a cell."""
        plan = super().plan(layout, layers)
        return replace(plan, kept=(0,), recycled=plan.kept) if plan.prunes else plan

    def select(self, view: View) -> Selection:
        """Fold each cell into its mean."""
        labels, centres = partition(require_grids(self, view.layout), view.count)
        pool = (
            (labels >= 0).nonzero().flatten()
        )  # all patches, unless there are fewer cells than grids
        group, device = len(view.hidden), view.hidden.device
        labels, centres, pool = (
            part.to(device).expand(group, -1) for part in (labels[pool], centres, pool)
        )
        values = merge(view.hidden[:, pool[0]], labels, view.count, "mean")
        return Selection(pool[:, :0], Recycled(values, centres, pool, labels))


def require_grids(method: Method, layout: Layout | int | None) -> Layout:
    """Return the layout of a sample, known to show where its visual tokens lie.

    Raises: UnsupportedError: it is not known, or no token is a patch.
    """
    name = type(method).__name__
    if not isinstance(layout, Layout):
        raise UnsupportedError(
            f"{name} needs the rows and columns of each image's visual tokens, and they are not known for this model "
            "and prompt; use Random instead."
        )
    if not layout.grids:
        raise UnsupportedError(
            f"{name} needs the rows and columns of each image's visual tokens, and this model's are no patches: they "
            "answer learned queries and lie nowhere in the image; use Random instead."
        )
    return layout
