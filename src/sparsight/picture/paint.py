"""Paints one site over one panel so that it shows on any image: dropped patches under a grey veil, kept ones outlined.

The outline has two colours, light inside and dark outside, so that one of them stands out wherever
it lies.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from sparsight.counts.layout import PatchGrid
from sparsight.picture.panels import Panel
from sparsight.sequence.trace import SiteTrace

VEIL, TINT, FRAME = (120, 124, 132), (140, 60, 245), (255, 232, 74)
LIGHT, DARK, UNSEEN = (255, 255, 255), (0, 0, 0), (196, 60, 60)
VEIL_STRENGTH, TINT_STRENGTH = 0.72, 0.5
STEP = 12  # px between the lines over what is not seen

Span = tuple[int, int, int, int]  # px, left, top, right, bottom; the last two are outside


@dataclass(frozen=True)
class Cells:
    """The visual tokens of a panel and their places.

    Args: spans: of each token, its place in px.
    """

    spans: dict[int, Span]

    def mask(self, size: tuple[int, int], tokens: Iterable[int]) -> Image.Image:
        """Return where some tokens lie, as an image of 0 and 255; tokens of other panels are left out."""
        mask = Image.new("L", size)
        pen = ImageDraw.Draw(mask)
        for token in tokens:
            if token in self.spans:
                left, top, right, bottom = self.spans[token]
                pen.rectangle((left, top, right - 1, bottom - 1), fill=255)
        return mask


def cells(panel: Panel, size: tuple[int, int]) -> Cells:
    """Place the tokens of a panel that is drawn at a size in px; each takes at least one px."""
    spans = {}
    for grid, (left, top, right, bottom) in zip(panel.grids, panel.boxes, strict=True):
        rows, columns = grid.size
        xs = [round((left + (right - left) * i / columns) * size[0]) for i in range(columns + 1)]
        ys = [round((top + (bottom - top) * i / rows) * size[1]) for i in range(rows + 1)]
        for place, token in enumerate(grid.tokens.tolist()):
            row, column = divmod(place, columns)
            x, y = min(xs[column], size[0] - 1), min(ys[row], size[1] - 1)
            spans[token] = (x, y, max(xs[column + 1], x + 1), max(ys[row + 1], y + 1))
    return Cells(spans)


def unseen(panel: Panel, size: tuple[int, int]) -> Image.Image | None:
    """Return where a panel shows what no token sees, as a mask; None if that is next to nothing."""
    mask = Image.new("L", size, 255)
    pen = ImageDraw.Draw(mask)
    for left, top, right, bottom in panel.boxes:  # a px more on each side, as edges are rounded
        pen.rectangle(
            (left * size[0] - 1, top * size[1] - 1, right * size[0], bottom * size[1]), fill=0
        )
    return mask if mask.histogram()[255] > 0.005 * size[0] * size[1] else None


def paint_unseen(image: Image.Image, mask: Image.Image | None) -> Image.Image:
    """Strike out what no token sees."""
    if mask is None:
        return image
    struck = Image.blend(image, Image.new("RGB", image.size, LIGHT), 0.55)
    pen = ImageDraw.Draw(struck)
    for x in range(-image.height, image.width, STEP):
        pen.line((x, image.height, x + image.height, 0), fill=UNSEEN, width=2)
    return Image.composite(struck, image, mask)


def paint(
    image: Image.Image, site: SiteTrace, places: Cells, hidden: Image.Image | None
) -> Image.Image:
    """Paint one site.

    Args:
        image: at the size that it is drawn in.
        site: what happened there; its tokens are named across the whole sample.
        places: of the panel's tokens.
        hidden: where no token sees anything.
    """
    veiled = Image.blend(
        image.convert("L").convert("RGB"), Image.new("RGB", image.size, VEIL), VEIL_STRENGTH
    )
    tinted = Image.blend(image, Image.new("RGB", image.size, TINT), TINT_STRENGTH)
    kept, pool = (places.mask(image.size, tokens.tolist()) for tokens in (site.keep, site.pool))
    panel = Image.composite(tinted, veiled, pool)
    _borders(panel, site, places)
    panel = Image.composite(image, panel, kept)
    panel = outlined(panel, kept)
    for token in site.centres.tolist():
        if token in places.spans:
            _frame(panel, places.spans[token])
    return paint_unseen(panel, hidden)


def outlined(panel: Image.Image, mask: Image.Image) -> Image.Image:
    """Draw a line in two colours around what a mask holds: light inside, dark outside."""
    wide = Image.new(
        "L", (mask.width + 4, mask.height + 4)
    )  # so that the image's edge is an edge of the mask
    wide.paste(mask, (2, 2))
    inner = ImageChops.subtract(wide, wide.filter(ImageFilter.MinFilter(3)))
    outer = ImageChops.subtract(wide.filter(ImageFilter.MaxFilter(3)), wide)
    for colour, line in ((DARK, outer), (LIGHT, inner)):
        panel.paste(colour, mask=line.crop((2, 2, 2 + mask.width, 2 + mask.height)))
    return panel


def _borders(panel: Image.Image, site: SiteTrace, places: Cells) -> None:
    """Draw thin lines around the clusters that recycled tokens stand for."""
    clusters: dict[int, list[int]] = {}
    for token, label in zip(site.pool.tolist(), site.labels.tolist(), strict=True):
        clusters.setdefault(label, []).append(token)
    for tokens in clusters.values():
        mask = places.mask(panel.size, tokens)
        edge = ImageChops.subtract(mask, mask.filter(ImageFilter.MinFilter(3)))
        panel.paste(LIGHT, mask=edge.point(lambda value: value // 2))


def _frame(panel: Image.Image, span: Span) -> None:
    left, top, right, bottom = span
    pen, wide = ImageDraw.Draw(panel), min(max(1, (right - left) // 5), 4)
    pen.rectangle((left, top, right - 1, bottom - 1), outline=FRAME, width=wide)
    pen.rectangle((left - 1, top - 1, right, bottom), outline=DARK)


def paint_scaled(image: Image.Image, size: tuple[int, int], small: tuple[int, int]) -> Image.Image:
    """Paint what a model saw of an image that was scaled down: the smaller image, its patches divided by lines.

    Args:
        image: what is seen of the image.
        size: in px, of the smaller image as it is drawn.
        small: its rows and columns of patches.
    """
    panel = image.resize(size, Image.Resampling.LANCZOS)
    rows, columns = small
    lines = Image.new("L", size)
    pen = ImageDraw.Draw(lines)
    for column in range(1, columns):
        pen.line(
            (round(column * size[0] / columns), 0, round(column * size[0] / columns), size[1]),
            fill=110,
        )
    for row in range(1, rows):
        pen.line((0, round(row * size[1] / rows), size[0], round(row * size[1] / rows)), fill=110)
    panel.paste(LIGHT, mask=lines)
    return panel


def count(tokens: Iterable[int], grids: Iterable[PatchGrid]) -> int:
    """Return how many tokens lie in some grids."""
    own = {token for grid in grids for token in grid.tokens.tolist()}
    return sum(token in own for token in tokens)
