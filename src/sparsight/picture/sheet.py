"""Draws the whole picture: heading, panels in rows and columns, legend and notes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from math import sqrt

from PIL import Image, ImageDraw

from sparsight.counts.layout import Grid
from sparsight.picture import paint as painting
from sparsight.picture.paint import FRAME, LIGHT, TINT, UNSEEN, VEIL
from sparsight.picture.panels import Panel, crop_to_boxes
from sparsight.picture.stills import LONGEST, PATCH
from sparsight.picture.text import Colour, measure_width, wrap, write
from sparsight.sequence.trace import SiteTrace

SIDE = 360  # px of a square panel, about
FEW = 230  # px of a square panel among many
MANY = 4  # rows; with more than these, panels are small, and stand in two bands if there is room
WIDEST = 1800  # px of two bands
MARGIN, GAP = 32, 20  # px
BETWEEN = 3 * GAP  # px between bands
NARROWEST = 3 * SIDE  # px
TITLE = 17  # font sizes, px
SMALL = 14
LARGE = 22
INK = (24, 28, 36)
GREY = (92, 100, 112)
EDGE = (208, 212, 218)
PAPER = (255, 255, 255)
PALE_TINT = (194, 160, 248)
PALE_UNSEEN = (240, 214, 214)

Entry = tuple[str, Colour, Colour]  # of the legend: text, colour inside, colour of the edge
Pen = ImageDraw.ImageDraw | None  # None measures and draws nothing


@dataclass(frozen=True)
class Words:
    """What is written on the picture.

    Args:
        question: asked.
        answers: label and answer, one line each.
        facts: model, method and budget, one line each.
        notes: for the reader, one line each.
    """

    question: str = ""
    answers: tuple[tuple[str, str], ...] = ()
    facts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One drawn panel: a title, a line below it, and the image."""

    title: str
    line: str
    image: Image.Image

    @property
    def width(self) -> int:
        """Width of the image and of the text above it, px."""
        title = round(measure_width(self.title, TITLE))
        line = round(measure_width(self.line, SMALL))
        return max(self.image.width, title, line)


def draw(
    panels: Sequence[Panel], sites: Sequence[SiteTrace], words: Words, small: Grid | None = None
) -> Image.Image:
    """Return the picture, in RGB.

    Args:
        panels: images and the grids over them, in the order of the prompt; each makes a row.
        sites: trace of one sample.
        words: that are written.
        small: rows and columns of patches to which images were scaled down before they were
            encoded; None if they were not.
    """
    count = len(panels)
    unseen = [painting.find_unseen(panel, _choose_size(panel, count)) for panel in panels]
    rows = []
    for panel, mask in zip(panels, unseen, strict=True):
        rows.append(list(_draw_row(panel, mask, sites, small, count)))
    columns = list(map(_measure_width, zip(*rows, strict=True)))
    band = sum(columns) + GAP * (len(columns) - 1)
    several = count > MANY and 2 * band + BETWEEN <= WIDEST
    lines = list(zip_longest(*_split(rows, 2 if several else 1)))
    room = max(band + (band + BETWEEN) * several, NARROWEST)
    legend = _list_legend(sites, small, any(mask is not None for mask in unseen))
    # without a pen, the writing functions return where they would end
    top = _write_heading(None, MARGIN, room, words)
    end = _write_end(None, top + sum(map(_measure_height, lines)), room, legend, words.notes)
    canvas = Image.new("RGB", (room + 2 * MARGIN, end + MARGIN), PAPER)
    pen = ImageDraw.Draw(canvas)
    y = _write_heading(pen, MARGIN, room, words)
    for line in lines:
        x = MARGIN
        for row in filter(None, line):
            for cell, column in zip(row, columns, strict=True):
                _paste_cell(canvas, pen, (x, y), cell)
                x += column + GAP
            x += BETWEEN - GAP
        y += _measure_height(line)
    _write_end(pen, y, room, legend, words.notes)
    return canvas


def _choose_size(panel: Panel, rows: int) -> tuple[int, int]:
    """Return width and height of a drawn panel, px.

    Panels of all shapes have about the same area, but no patch is too small to be seen. An image
    that is far longer than wide is drawn wider than it is, where its patches would be lines
    otherwise.
    """
    image_width, image_height = panel.image.size
    scale = (FEW if rows > MANY else SIDE) / sqrt(image_width * image_height)
    least_width = least_height = 1.0  # at which no patch is narrower or lower than PATCH px
    for grid, box in zip(panel.grids, panel.boxes, strict=True):
        patch_width = image_width * (box[2] - box[0]) / grid.size[1]
        patch_height = image_height * (box[3] - box[1]) / grid.size[0]
        scale = max(scale, PATCH / min(patch_width, patch_height))
        least_width = max(least_width, PATCH * image_width / patch_width)
        least_height = max(least_height, PATCH * image_height / patch_height)
    scale = min(scale, LONGEST / max(image_width, image_height))
    width = max(round(image_width * scale), min(LONGEST, round(least_width)))
    height = max(round(image_height * scale), min(LONGEST, round(least_height)))
    return width, height


def _draw_row(
    panel: Panel,
    unseen: Image.Image | None,
    sites: Sequence[SiteTrace],
    small: Grid | None,
    rows: int,
) -> Iterator[Cell]:
    """Yield the cells of one panel: the image, then one for each site."""
    size = _choose_size(panel, rows)
    image = panel.image.resize(size, Image.Resampling.LANCZOS)
    total = sum(len(grid.tokens) for grid in panel.grids)
    yield Cell(
        panel.title,
        f"{_describe_grids(panel)}: {total} visual tokens{_describe_stretch(panel, size)}",
        painting.paint_unseen(image, unseen),
    )
    cells = painting.place_tokens(panel, size)
    for site in sites:
        kept = painting.count_tokens(site.keep.tolist(), panel.grids)
        if small is not None:
            title = f"scaled to {small[0]} x {small[1]}"
            line = f"{kept} visual tokens of {total}"
            yield Cell(title, line, _draw_scaled(panel, size, small))
            continue
        centres = painting.count_tokens(site.centres.tolist(), panel.grids)
        present = painting.count_tokens(site.present.tolist(), panel.grids)
        parts = [f"{kept} kept"] if kept or not centres else []
        if centres:
            parts.append(f"{centres} recycled")
        painted = painting.paint(image, site, cells, unseen)
        yield Cell(f"before layer {site.site}", f"{' + '.join(parts)} of {present}", painted)


def _describe_grids(panel: Panel) -> str:
    sizes = {grid.size for grid in panel.grids}
    shape = " x ".join(map(str, sizes.pop())) if len(sizes) == 1 else "patches"
    return f"{len(panel.grids)} times {shape}" if len(panel.grids) > 1 else shape


def _describe_stretch(panel: Panel, size: tuple[int, int]) -> str:
    """Return words for a panel that is drawn in another shape than its image's, else nothing."""
    image = panel.image
    difference = abs(size[0] * image.height - size[1] * image.width)
    rounding = image.width + image.height
    return "" if difference <= rounding else ", drawn stretched"


def _draw_scaled(panel: Panel, size: tuple[int, int], small: Grid) -> Image.Image:
    """Return the smaller image, its patches as large as those of the panel."""
    (grid,) = panel.grids
    (box,) = panel.boxes
    width = round((box[2] - box[0]) * size[0] * small[1] / grid.size[1])
    height = round((box[3] - box[1]) * size[1] * small[0] / grid.size[0])
    return painting.paint_scaled(crop_to_boxes(panel), (max(1, width), max(1, height)), small)


def _measure_width(column: Sequence[Cell]) -> int:
    return max(cell.width for cell in column)


def _split(rows: Sequence[list[Cell]], bands: int) -> Iterator[Sequence[list[Cell]]]:
    """Yield the rows of each band, from left to right; the first one is the longest."""
    size = -(-len(rows) // bands)  # rounded up
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _measure_height(line: Sequence[list[Cell] | None]) -> int:
    """Return the height of rows that stand side by side, px."""
    cells = chain.from_iterable(filter(None, line))
    return TITLE + SMALL + 18 + max(cell.image.height for cell in cells) + GAP


def _paste_cell(
    canvas: Image.Image, pen: ImageDraw.ImageDraw, place: tuple[int, int], cell: Cell
) -> None:
    x, y = place
    write(pen, (x, y), cell.title, TITLE, INK)
    write(pen, (x, y + TITLE + 5), cell.line, SMALL, GREY)
    y += TITLE + SMALL + 18
    pen.rectangle((x - 1, y - 1, x + cell.image.width, y + cell.image.height), outline=EDGE)
    canvas.paste(cell.image, (x, y))


def _write_heading(pen: Pen, y: int, room: int, words: Words) -> int:
    """Write question, answers and facts from `y` on, and return where the panels begin, px."""
    if words.question:
        y = _write_lines(pen, y, room, [words.question], LARGE, colour=INK)
    y += 4
    labels = [measure_width(label, TITLE) for label, _ in words.answers]
    indent = round(max(labels, default=0)) + 16
    for label, answer in words.answers:
        for index, line in enumerate(wrap(answer or "(nothing)", TITLE, room - indent)):
            if pen is not None:
                write(pen, (MARGIN, y), label if index == 0 else "", TITLE, GREY)
                write(pen, (MARGIN + indent, y), line, TITLE, INK)
            y += TITLE + 8
    return _write_lines(pen, y + 4, room, words.facts, SMALL, colour=GREY) + GAP


def _write_end(pen: Pen, y: int, room: int, legend: Sequence[Entry], notes: Sequence[str]) -> int:
    """Write legend and notes from `y` on, and return where they end, px."""
    y = _write_legend(pen, y, room, legend)
    return _write_lines(pen, y, room, notes, SMALL, colour=GREY)


def _write_lines(
    pen: Pen, y: int, room: int, texts: Sequence[str], size: int, *, colour: Colour
) -> int:
    """Write wrapped texts from `y` on, and return where they end, px."""
    for text in texts:
        for line in wrap(text, size, room):
            if pen is not None:
                write(pen, (MARGIN, y), line, size, colour)
            y += size + 8
    return y


def _list_legend(sites: Sequence[SiteTrace], small: Grid | None, unseen: bool) -> list[Entry]:
    """Return an entry for each thing that the panels show."""
    entries: list[Entry] = []
    if small is None:
        entries += _list_site_legend(sites)
    elif sites:
        text = "what the image encoder sees: a smaller image, patch by patch, drawn to scale"
        entries.append((text, LIGHT, INK))
    if unseen:
        entries.append(("not seen: cut off by the image processor", PALE_UNSEEN, UNSEEN))
    return entries


def _list_site_legend(sites: Sequence[SiteTrace]) -> Iterator[Entry]:
    if any(len(site.keep) for site in sites):
        yield ("kept: outlined", LIGHT, INK)
    if any(len(site.pool) for site in sites):
        yield ("recycled: merged into the centre of its cluster", PALE_TINT, TINT)
        yield ("centre", PALE_TINT, FRAME)
    drops = (len(site.keep) + len(site.pool) < len(site.present) for site in sites)
    if len(sites) > 1 or any(drops):
        yield ("dropped, here or before", VEIL, VEIL)


def _write_legend(pen: Pen, y: int, room: int, entries: Sequence[Entry]) -> int:
    """Write the legend from `y` on, and return where it ends, px."""
    x = MARGIN
    box = SMALL + 3
    for text, fill, outline in entries:
        needed = box + 9 + round(measure_width(text, SMALL))
        if x > MARGIN and x + needed > MARGIN + room:
            x = MARGIN
            y += box + 10
        if pen is not None:
            corners = (x, y, x + box, y + box)
            line = 3 if outline == FRAME else 2
            pen.rectangle(corners, fill=fill, outline=outline, width=line)
            write(pen, (x + box + 9, y + 1), text, SMALL, INK)
        x += needed + 28
    return y + box + 12 if entries else y
