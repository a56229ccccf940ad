"""Paints one site over one panel: dropped patches get a grey veil, kept ones an outline.

The outline has two colours, light inside and dark outside, so that it shows on any image.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from sparsight.counts.layout import PatchGrid
from sparsight.picture.panels import Panel
from sparsight.sequence.trace import SiteTrace

VEIL = (120, 124, 132)  # over dropped patches
TINT = (140, 60, 245)  # over recycled patches
FRAME = (255, 232, 74)  # around the centre of a cluster
LIGHT = (255, 255, 255)
DARK = (0, 0, 0)
UNSEEN = (196, 60, 60)  # lines over what no token sees
VEIL_STRENGTH = 0.72
TINT_STRENGTH = 0.5
STEP = 12  # px between the lines over what no token sees

Span = tuple[int, int, int, int]  # px: left, top, right, bottom; right and bottom exclusive


@dataclass(frozen=True)
class Cells:
    """Where the visual tokens of a panel are drawn.

    Args:
        spans: by token, in px.
    """

    spans: dict[int, Span]

    def mask(self, size: tuple[int, int], tokens: Iterable[int]) -> Image.Image:
        """Return an image of 0 and 255: where tokens are drawn; tokens of other panels are not."""
        mask = Image.new("L", size)
        pen = ImageDraw.Draw(mask)
        for token in tokens:
            if token in self.spans:
                left, top, right, bottom = self.spans[token]
                pen.rectangle((left, top, right - 1, bottom - 1), fill=255)
        return mask


def place_tokens(panel: Panel, size: tuple[int, int]) -> Cells:
    """Return where the tokens of a panel are drawn, each at least one px large.

    Args:
        panel: with its grids.
        size: of the drawn panel, px.
    """
    spans = {}
    for grid, (left, top, right, bottom) in zip(panel.grids, panel.boxes, strict=True):
        rows, columns = grid.size
        xs = [round((left + (right - left) * i / columns) * size[0]) for i in range(columns + 1)]
        ys = [round((top + (bottom - top) * i / rows) * size[1]) for i in range(rows + 1)]
        for index, token in enumerate(grid.tokens.tolist()):
            row, column = divmod(index, columns)
            x = min(xs[column], size[0] - 1)
            y = min(ys[row], size[1] - 1)
            spans[token] = (x, y, max(xs[column + 1], x + 1), max(ys[row + 1], y + 1))
    return Cells(spans)


def find_unseen(panel: Panel, size: tuple[int, int]) -> Image.Image | None:
    """Return the mask of what no token of a panel sees; None if that is next to nothing."""
    mask = Image.new("L", size, 255)
    pen = ImageDraw.Draw(mask)
    for left, top, right, bottom in panel.boxes:  # a px more on each side, as edges are rounded
        pen.rectangle(
            (left * size[0] - 1, top * size[1] - 1, right * size[0], bottom * size[1]), fill=0
        )
    return mask if mask.histogram()[255] > 0.005 * size[0] * size[1] else None


def paint_unseen(image: Image.Image, mask: Image.Image | None) -> Image.Image:
    """Return an image with what no token sees struck out."""
    if mask is None:
        return image
    struck = Image.blend(image, Image.new("RGB", image.size, LIGHT), 0.55)
    pen = ImageDraw.Draw(struck)
    for x in range(-image.height, image.width, STEP):
        pen.line((x, image.height, x + image.height, 0), fill=UNSEEN, width=2)
    return Image.composite(struck, image, mask)


def paint(
    image: Image.Image, site: SiteTrace, cells: Cells, unseen: Image.Image | None
) -> Image.Image:
    """Return an image with one site painted over it.

    Args:
        image: of the panel, at the size that it is drawn at.
        site: what happened there, to all tokens of the sample.
        cells: of the panel's tokens.
        unseen: mask of what no token sees.
    """
    veiled = Image.blend(
        image.convert("L").convert("RGB"), Image.new("RGB", image.size, VEIL), VEIL_STRENGTH
    )
    tinted = Image.blend(image, Image.new("RGB", image.size, TINT), TINT_STRENGTH)
    kept = cells.mask(image.size, site.keep.tolist())
    pooled = cells.mask(image.size, site.pool.tolist())
    painted = Image.composite(tinted, veiled, pooled)
    _draw_cluster_borders(painted, site, cells)
    painted = Image.composite(image, painted, kept)
    painted = outline(painted, kept)
    for token in site.centres.tolist():
        if token in cells.spans:
            _draw_frame(painted, cells.spans[token])
    return paint_unseen(painted, unseen)


def outline(panel: Image.Image, mask: Image.Image) -> Image.Image:
    """Draw a line around what a mask holds, light inside and dark outside; return the panel."""
    # two px more on each side, so that a mask has an edge at the edge of the image too
    wide = Image.new("L", (mask.width + 4, mask.height + 4))
    wide.paste(mask, (2, 2))
    inner = ImageChops.subtract(wide, wide.filter(ImageFilter.MinFilter(3)))
    outer = ImageChops.subtract(wide.filter(ImageFilter.MaxFilter(3)), wide)
    for colour, line in ((DARK, outer), (LIGHT, inner)):
        panel.paste(colour, mask=line.crop((2, 2, 2 + mask.width, 2 + mask.height)))
    return panel


def _draw_cluster_borders(panel: Image.Image, site: SiteTrace, cells: Cells) -> None:
    """Draw thin lines around the clusters that recycled tokens stand for."""
    clusters: dict[int, list[int]] = {}
    for token, label in zip(site.pool.tolist(), site.labels.tolist(), strict=True):
        clusters.setdefault(label, []).append(token)
    for tokens in clusters.values():
        mask = cells.mask(panel.size, tokens)
        edge = ImageChops.subtract(mask, mask.filter(ImageFilter.MinFilter(3)))
        panel.paste(LIGHT, mask=edge.point(lambda value: value // 2))


def _draw_frame(panel: Image.Image, span: Span) -> None:
    left, top, right, bottom = span
    pen = ImageDraw.Draw(panel)
    line = min(max(1, (right - left) // 5), 4)
    pen.rectangle((left, top, right - 1, bottom - 1), outline=FRAME, width=line)
    pen.rectangle((left - 1, top - 1, right, bottom), outline=DARK)


def paint_scaled(image: Image.Image, size: tuple[int, int], small: tuple[int, int]) -> Image.Image:
    """Return the smaller image that a model saw, with lines between its patches.

    Args:
        image: the part of the image that the model saw.
        size: of the smaller image as it is drawn, px.
        small: rows and columns of its patches.
    """
    panel = image.resize(size, Image.Resampling.LANCZOS)
    rows, columns = small
    lines = Image.new("L", size)
    pen = ImageDraw.Draw(lines)
    for column in range(1, columns):
        x = round(column * size[0] / columns)
        pen.line((x, 0, x, size[1]), fill=110)
    for row in range(1, rows):
        y = round(row * size[1] / rows)
        pen.line((0, y, size[0], y), fill=110)
    panel.paste(LIGHT, mask=lines)
    return panel


def count_tokens(tokens: Iterable[int], grids: Iterable[PatchGrid]) -> int:
    """Return how many of some tokens lie in some grids."""
    in_grids: set[int] = set()
    for grid in grids:
        in_grids.update(grid.tokens.tolist())
    return sum(token in in_grids for token in tokens)
