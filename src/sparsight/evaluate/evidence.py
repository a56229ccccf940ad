"""Evidence: which visual tokens show what an answer rests on, and how many of them are left.

Pure functions of tensors.
"""

from collections.abc import Sequence

import torch

from sparsight.counts.layout import Grid, Layout
from sparsight.evaluate.scenes import Box
from sparsight.sequence.trace import SiteTrace

SHARE = 0.25  # of a patch, or of a box that is smaller than a patch, that has to lie in both


def find_evidence_tokens(
    boxes: Sequence[Sequence[Box]], sizes: Sequence[tuple[int, int]], layout: Layout
) -> torch.Tensor:
    """Return the visual tokens whose patches show a box of evidence, as `find_covered` says.

    Args:
        boxes: for each image, boxes in px.
        sizes: for each image, width and height in px.
        layout: where the visual tokens lie; each of its grids shows one whole image.

    Returns:
        (V,) bool in the order of the prompt; False for tokens that are no patch.
    """
    evidence = torch.zeros(len(layout), dtype=torch.bool)
    for grid in layout.grids:
        covered = find_covered(boxes[grid.image], sizes[grid.image], grid.size)
        evidence[grid.tokens] = covered.any(dim=0).flatten()
    return evidence


def shows_whole_images(layout: Layout | None, images: int) -> bool:
    """Return whether the layout has one grid for each of `images` images, showing all of it.

    Tiles, frames and learned queries do not.
    """
    if layout is None or not layout.grids or bool(layout.frame.any()):
        return False
    return layout.image_count == images == len({grid.image for grid in layout.grids})


def find_covered(boxes: Sequence[Box], size: tuple[int, int], grid: Grid) -> torch.Tensor:
    """Return which patches show each box.

    A quarter of the patch, or of the box where the box is smaller, lies in both.

    Args:
        boxes: E boxes in px.
        size: width and height of the image in px.
        grid: rows and columns of patches.

    Returns:
        (E, rows, columns) bool.
    """
    rows, columns = grid
    width = size[0] / columns  # of a patch, px
    height = size[1] / rows
    sides = torch.tensor(
        [(box.left, box.top, box.right, box.bottom) for box in boxes], dtype=torch.float64
    ).view(-1, 4)  # (E, 4)
    left, top, right, bottom = sides.T  # (E,) each
    across = _measure_overlap(left, right, columns, width)  # (E, columns)
    down = _measure_overlap(top, bottom, rows, height)  # (E, rows)
    area = down[:, :, None] * across[:, None, :]  # (E, rows, columns)
    least = SHARE * ((right - left) * (bottom - top)).clamp(max=width * height)  # (E,)
    shown: torch.Tensor = area >= least[:, None, None] - 1e-9
    return shown


def _measure_overlap(
    start: torch.Tensor, end: torch.Tensor, count: int, step: float
) -> torch.Tensor:
    """Return the px that each span (E,) shares with each of `count` cells of `step` px, (E, count).

    Args:
        start: px, of each span.
        end: px, of each span.
        count: of cells; the first one begins at 0.
        step: px, of a cell.
    """
    edge = torch.arange(count, dtype=torch.float64) * step  # (count,)
    last = torch.minimum(end[:, None], edge + step)
    first = torch.maximum(start[:, None], edge)
    return (last - first).clamp(min=0)


def measure_recall(
    sites: Sequence[SiteTrace], evidence: torch.Tensor
) -> tuple[tuple[float, ...], tuple[float, ...]] | tuple[None, None]:
    """Return how much of the evidence is left after each site.

    Args:
        sites: of one sample, in order.
        evidence: (V,) bool.

    Returns:
        Two fractions for each site: of the evidence tokens that are present themselves, where a
        recycled token counts for the token at its centre alone; and of those that are present or
        merged into a token that is. None without evidence.
    """
    total = int(evidence.sum())
    if not total:
        return None, None
    home = torch.arange(len(evidence))  # (V,) the present token that holds each token, -1 for none
    recall = []
    merged = []
    for site in sites:
        carrier = torch.full_like(home, -1)  # (V,) where each token present before the site goes
        carrier[site.pool.cpu()] = site.centres.cpu()[site.labels.cpu()]
        survivors = site.survivors.cpu()
        carrier[survivors] = survivors
        home = torch.where(home >= 0, carrier[home.clamp(min=0)], -1)
        present = torch.zeros_like(evidence)
        present[survivors] = True
        recall.append(int((present & evidence).sum()) / total)
        merged.append(int(((home >= 0) & evidence).sum()) / total)
    return tuple(recall), tuple(merged)
