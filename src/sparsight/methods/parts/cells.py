"""Partitions of grids of visual tokens into compact cells, and smaller grids; all on the host."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from math import isqrt

import torch

from sparsight.counts.layout import Grid, Layout


def share(
    count: int,
    sizes: Sequence[int],
    most: int | None = None,
    least: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """Return shares of a count in proportion to sizes, by largest remainder.

    Each share is at least one where the count allows it. Of equal remainders the first wins.

    Args:
        count: at most the sum of `sizes`, and of `most` times their number.
        most: what no part may exceed, besides its own size; None for its size alone.
        least: what each part has at least, in all at most `count`; None for one each.
    Returns: one part per size, which add up to `count`.
    """
    total = sum(sizes)
    parts = [1 if count >= len(sizes) else 0] * len(sizes) if least is None else list(least)
    limits = [size if most is None else most for size in sizes]
    for _ in range(count - sum(parts)):
        open_parts = (i for i in range(len(sizes)) if parts[i] < limits[i])
        parts[max(open_parts, key=lambda i: (count * sizes[i] - parts[i] * total, -i))] += 1
    return tuple(parts)


def grid_cells(height: int, width: int, count: int) -> torch.Tensor:
    """Partition a grid into compact rectangular cells of about equal size.

    About sqrt(count h / w) bands of rows share the cells by their rows, and each band is cut into
    columns.

    Args: count: cells, in 1..h w.
    Returns: (h w,) int64 in 0..count-1, the cell of each token; cells are numbered in raster order.
    """
    wanted = round((count * height / width) ** 0.5)
    bands = min(max(wanted, -(-count // width)), height, count)
    cuts = [band * height // bands for band in range(bands + 1)]
    rows = [end - start for start, end in pairwise(cuts)]
    labels, first = [], 0
    for tall, cells in zip(rows, share(count, rows, most=width), strict=True):
        # column c lies in cell c * cells // width: each has one, as cells <= width
        labels += [first + column * cells // width for column in range(width)] * tall
        first += cells
    return torch.tensor(labels)


def scaled_cells(grid: Grid, small: Grid) -> torch.Tensor:
    """Say which token of a smaller grid lies under each token of a grid.

    Returns: (h w,) int64, raster index in the smaller grid.
    """
    rows, columns = (torch.arange(n) * m // n for n, m in zip(grid, small, strict=True))
    return (rows[:, None] * small[1] + columns).flatten()


def cell_centres(labels: torch.Tensor, width: int) -> torch.Tensor:
    """Return the token of each cell that is nearest to the mean place of the cell.

    Of equally near tokens the first wins.

    Args:
        labels: (h w,) int64 in 0..C-1, every cell non-empty.
        width: columns of the grid.
    Returns: (C,) int64.
    """
    index = torch.arange(len(labels))
    places = torch.stack([index // width, index % width], dim=-1).double()
    size = torch.bincount(labels).double()
    means = places.new_zeros(len(size), 2).index_add_(0, labels, places) / size[:, None]
    far = (places - means[labels]).square().sum(dim=-1)
    nearest = far.sort(stable=True).indices
    order = nearest[labels[nearest].sort(stable=True).indices]  # by cell, then distance, then index
    return order[torch.cat([size.long().new_zeros(1), size.long().cumsum(0)[:-1]])]


@lru_cache(maxsize=64)
def partition(layout: Layout, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Partition the grids of a sample into `count` cells, shared out by their sizes.

    The result is kept for later calls: treat it as read-only.

    Tokens that are no patch lie in no cell. Where there are more cells than patches, the first of
    them become cells of their own, behind all others.

    Returns: labels (V,) int64, -1 for tokens in no cell, and centres (count,) int64 among the V
    tokens.
    """
    patches = min(count, len(layout) - len(layout.others))
    shares = share(patches, [rows * columns for rows, columns in layout.sizes])
    cells = [
        grid_cells(*size, part) if part else None
        for size, part in zip(layout.sizes, shares, strict=True)
    ]
    labels, centres = _join(layout, cells)
    rest = layout.others[: count - patches]
    labels[rest] = torch.arange(patches, count)
    return labels, torch.cat([centres, rest])


@lru_cache(maxsize=64)
def scaled_partition(layout: Layout, small: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """Partition every grid of a sample by one smaller grid; treat the result as read-only.

    Returns: labels (V,) int64 and centres (C,) int64 among the V tokens.
    """
    return _join(layout, [scaled_cells(size, small) for size in layout.sizes])


def _join(
    layout: Layout, cells: Sequence[torch.Tensor | None]
) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.full((len(layout),), -1)
    centres = [torch.arange(0)]
    first = 0
    for grid, own in zip(layout.grids, cells, strict=True):
        if own is not None:
            labels[grid.tokens] = own + first
            centres.append(grid.tokens[cell_centres(own, grid.size[1])])
            first += len(centres[-1])
    return labels, torch.cat(centres)


def downscaled(grid: Grid, most: int) -> Grid:
    """Return the grid of an image scaled down to at most `most` tokens.

    Its aspect ratio is kept as well as the limit allows: both sides are scaled alike and rounded
    down or up, whichever keeps more tokens.

    Args: most: at least 1.
    """
    height, width = grid
    if most >= height * width:
        return grid
    # a side that would vanish stays one token, which leaves the other at most all of them
    rows = min(max(1, isqrt(most * height // width)), most)
    columns = min(max(1, isqrt(most * width // height)), most)
    found = [(h, w) for h in (rows, rows + 1) for w in (columns, columns + 1) if h * w <= most]
    return max(found, key=lambda small: small[0] * small[1])
