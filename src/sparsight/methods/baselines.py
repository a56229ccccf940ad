"""Baselines, which keep visual tokens without looking at the question; see also `downscale`.

Each prunes the input unless other sites are given, so that a budget is the number of visual tokens
in every layer.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from sparsight.counts.layout import Layout
from sparsight.counts.schedule import Schedule
from sparsight.errors import SettingError
from sparsight.methods.method import Method, require_grids
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
                f"{type(self).__name__} works on the input alone; sites={self.sites}, give "
                "sites=(0,)."
            )


@dataclass(frozen=True)
class Random(Baseline):
    """Random: visual tokens drawn at random, each with the same chance.

    Differs: every image keeps at least one where the count allows it.

    Args:
        seed: of the draw. The site and the number of tokens enter the draw too, the place in the
            batch does not. So samples of equal size share a draw, and an evaluation should give
            each question a seed of its own.
    """

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "visual tokens drawn at random, each with the same chance"

    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        if self.seed < 0:
            raise SettingError(f"seed={self.seed!r} is out of range; give an int >= 0.")

    def select(self, view: View) -> Selection:
        """Keep the tokens that come last in a random order, which is their score."""
        group, present = view.hidden.shape[:2]
        # two primes, so that neighbouring seeds, sites and sizes do not share a draw
        mixed = ((self.seed * 4099 + view.site) * 1_000_003 + present) % 2**63
        order = torch.randperm(present, generator=torch.Generator().manual_seed(mixed))
        score = order.float().to(view.hidden.device, non_blocking=True).expand(group, -1)  # (G, V)
        return Selection(top_k(score, view.keep_count, view.images), score=score)


@dataclass(frozen=True)
class Uniform(Baseline):
    """Uniform: visual tokens spread evenly over each image.

    The first site keeps the token nearest to the centre of each of `count` compact cells. Grids,
    such as tiles, frames and the two of a LLaVA-NeXT image, share the cells by their sizes. Row
    ends, class tokens and other tokens that are no patch are kept only where the count is higher
    than there are patches. What is present at a later site is no grid any more: there it is every
    V / count-th token in raster order.
    """

    name: ClassVar[str] = "uniform"
    summary: ClassVar[str] = "visual tokens spread evenly over each image"
    signals: ClassVar[frozenset[str]] = frozenset({"layout"})

    def select(self, view: View) -> Selection:
        """Keep evenly spread tokens."""
        layout, device = require_grids(self, view.layout), view.hidden.device
        group, present = view.hidden.shape[:2]
        count = view.keep_count
        if present == len(layout):
            centres = partition(layout, count)[1].sort().values  # (K,)
            return Selection(centres.to(device, non_blocking=True).expand(group, -1))
        # the middle of each of `count` equal stretches gets a score, the tokens between them none
        steps = torch.arange(count, device=device)
        middles = (2 * steps + 1) * present // (2 * count)
        score = view.hidden.new_zeros(group, present, dtype=torch.float32)
        score[:, middles] = 1.0
        return Selection(top_k(score, count, view.images))


@dataclass(frozen=True)
class Pool(Baseline):
    """Pool: average pooling of visual tokens over compact cells of each image.

    Differs: cells may differ in size by a row or column, so that any count can be met. Each mean
    takes the place of its cell's middle token. Row ends, class tokens and other tokens that are no
    patch are dropped and enter no mean, unless there are more cells than patches.
    """

    name: ClassVar[str] = "pool"
    summary: ClassVar[str] = "average pooling of visual tokens over compact cells of each image"
    signals: ClassVar[frozenset[str]] = frozenset({"layout"})

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        self.check_input_only()

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan the number of cells; where tokens are pruned, all that stay are means of cells."""
        plan = super().plan(layout, layers)
        return replace(plan, kept=(0,), recycled=plan.kept) if plan.prunes else plan

    def select(self, view: View) -> Selection:
        """Fold each cell into its mean."""
        layout, device = require_grids(self, view.layout), view.hidden.device
        labels, centres = partition(layout, view.count)  # (V,) and (C,), on the host
        # all patches lie in a cell, unless there are fewer cells than grids
        pool = (labels >= 0).nonzero().flatten()  # (P,)
        group = len(view.hidden)
        labels = labels[pool].to(device, non_blocking=True).expand(group, -1)  # (G, P)
        points = view.hidden[:, pool.to(device, non_blocking=True)]  # (G, P, D)
        values = merge(points, labels, view.count, "mean")  # (G, C, D)
        pool = pool.to(device, non_blocking=True).expand(group, -1)
        recycled = Recycled(
            values, centres.to(device, non_blocking=True).expand(group, -1), pool, labels
        )
        return Selection(pool[:, :0], recycled)
