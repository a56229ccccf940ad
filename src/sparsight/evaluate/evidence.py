"""Evidence: which visual tokens show what an answer rests on, and how many of them live through each site. Pure."""

from collections.abc import Sequence

import torch

from sparsight.counts.layout import Grid, Layout
from sparsight.evaluate.scenes import Box
from sparsight.sequence.trace import SiteTrace

SHARE = 0.25  # of a patch, or of a box that is smaller than one, that has to lie in both


def evidence_tokens(
    boxes: Sequence[Sequence[Box]], sizes: Sequence[tuple[int, int]], layout: Layout
) -> torch.Tensor:
    """Find the visual tokens whose patches show a box of evidence, by `covered_patches`.

    Args:
        boxes: for each image, boxes in px.
        sizes: for each image, width and height in px.
        layout: where the visual tokens lie; each of its grids shows one whole image.
    Returns: (V,) bool in the order of the prompt; tokens that are no patch show nothing.
    """
    found = torch.zeros(len(layout), dtype=torch.bool)
    for grid in layout.grids:
        shown = covered_patches(boxes[grid.image], sizes[grid.image], grid.size)
        found[grid.tokens] = shown.any(dim=0).flatten()
    return found


def shows_whole_images(layout: Layout | None, images: int) -> bool:
    """Tell whether each grid shows one of so many images as a whole, as tiles, frames and learned queries do not."""
    if layout is None or not layout.grids or bool(layout.frame.any()):
        return False
    return layout.image_count == images == len({grid.image for grid in layout.grids})


def covered_patches(boxes: Sequence[Box], size: tuple[int, int], grid: Grid) -> torch.Tensor:
    """Find the patches that show each box: a quarter of the patch, or of a box smaller than one, lies in both.

    Args:
        boxes: E boxes in px.
        size: width and height of the image in px.
        grid: rows and columns of patches.
    Returns: (E, rows, columns) bool.
    """
    rows, columns = grid
    width, height = size[0] / columns, size[1] / rows
    sides = torch.tensor(
        [(box.left, box.top, box.right, box.bottom) for box in boxes], dtype=torch.float64
    )
    left, top, right, bottom = sides.view(-1, 4).T  # (E,) each
    across = _overlap(left, right, columns, width)  # (E, columns)
    down = _overlap(top, bottom, rows, height)  # (E, rows)
    area = down[:, :, None] * across[:, None, :]
    least = SHARE * ((right - left) * (bottom - top)).clamp(max=width * height)  # (E,)
    shown: torch.Tensor = area >= least[:, None, None] - 1e-9
    return shown


def _overlap(start: torch.Tensor, end: torch.Tensor, count: int, step: float) -> torch.Tensor:
    """Return (E, count) px that each box shares with each of `count` stretches of `step` px."""
    edge = torch.arange(count, dtype=torch.float64) * step
    return (torch.minimum(end[:, None], edge + step) - torch.maximum(start[:, None], edge)).clamp(
        min=0
    )


def recalls(
    sites: Sequence[SiteTrace], evidence: torch.Tensor
) -> tuple[tuple[float, ...], tuple[float, ...]] | tuple[None, None]:
    """Measure how much of the evidence is left after each site.

    Args:
        sites: of one sample, in order.
        evidence: (V,) bool.
    Returns: for each site, the share of evidence tokens that are present themselves, a recycled
    token standing for
        its centre alone; and the share that is present or lives on in a recycled token. None
        without evidence.
    """
    total = int(evidence.sum())
    if not total:
        return None, None
    home = torch.arange(len(evidence))  # (V,) the present token that each lives on in, -1 for none
    recall, merged = [], []
    for site in sites:
        carrier = torch.full_like(home, -1)
        carrier[site.pool.cpu()] = site.centres.cpu()[site.labels.cpu()]
        survivors = site.survivors.cpu()
        carrier[survivors] = survivors
        home = torch.where(home >= 0, carrier[home.clamp(min=0)], -1)
        present = torch.zeros_like(evidence)
        present[survivors] = True
        recall.append(int((present & evidence).sum()) / total)
        merged.append(int(((home >= 0) & evidence).sum()) / total)
    return tuple(recall), tuple(merged)
