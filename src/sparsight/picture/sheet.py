"""The whole sheet: heading, panels in rows and columns, legend and notes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

from PIL import Image, ImageDraw

from sparsight.counts.layout import Grid
from sparsight.picture import paint as painting
from sparsight.picture.paint import FRAME, LIGHT, TINT, UNSEEN, VEIL
from sparsight.picture.panels import LONGEST, PATCH, Panel, seen_part
from sparsight.picture.text import Colour, width, wrap, write
from sparsight.sequence.trace import SiteTrace

SIDE, FEW = 360, 230  # px, about: of a square panel; of one among many
MANY = 4  # rows, from which on panels are small
MARGIN, GAP, NARROWEST = 32, 20, 3 * SIDE
TITLE, SMALL, LARGE = 17, 14, 22  # font sizes
INK, GREY, EDGE, PAPER = (24, 28, 36), (92, 100, 112), (208, 212, 218), (255, 255, 255)


@dataclass(frozen=True)
class Words:
    """What is written on the picture.

    Args:
        question: asked.
        answers: label and answer, one line each.
        facts: model, method and budget, one line each.
        notes: what a reader has to know, one line each.
    """

    question: str = ""
    answers: tuple[tuple[str, str], ...] = ()
    facts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One panel as it is drawn: title, a line below it, and the image."""

    title: str
    line: str
    image: Image.Image


def draw(
    rows: Sequence[Panel], sites: Sequence[SiteTrace], words: Words, small: Grid | None = None
) -> Image.Image:
    """Draw the picture.

    Args:
        rows: images and the grids over them, in the order of the prompt.
        sites: one sample's trace.
        words: what is written.
        small: rows and columns that images were scaled down to before they were encoded; None if
            they were not.
    Returns: an RGB image.
    """
    hidden = [painting.unseen(panel, _size(panel, len(rows))) for panel in rows]
    table = [
        list(_row(panel, mask, sites, small, len(rows)))
        for panel, mask in zip(rows, hidden, strict=True)
    ]
    columns = [max(_wide(row[i]) for row in table) for i in range(len(table[0]))]
    wide = max(sum(columns) + GAP * (len(columns) - 1), NARROWEST)
    legend = _legend(sites, small, any(mask is not None for mask in hidden))
    parts: list[Callable[[ImageDraw.ImageDraw | None, int], int]] = [
        lambda pen, y: _heading(pen, y, wide, words),
        lambda pen, y: _key(pen, y, wide, legend),
        lambda pen, y: _lines(pen, y, wide, words.notes, SMALL),
    ]
    body = sum(_tall(row) for row in table)
    top = parts[0](None, MARGIN)
    height = parts[2](None, parts[1](None, top + body)) + MARGIN
    canvas = Image.new("RGB", (wide + 2 * MARGIN, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    y = parts[0](pen, MARGIN)
    for row in table:
        x = MARGIN
        for cell, room in zip(row, columns, strict=True):
            _place(canvas, pen, (x, y), cell)
            x += room + GAP
        y += _tall(row)
    parts[2](pen, parts[1](pen, y))
    return canvas


def _size(panel: Panel, rows: int) -> tuple[int, int]:
    """Return the size of a panel in px: about the same area for all shapes, but no patch too small to be seen.

    An image that is far longer than wide is drawn wider than it is, where its patches would be
    lines otherwise.
    """
    width_, height = panel.image.size
    by = (FEW if rows > MANY else SIDE) / sqrt(width_ * height)
    least = [1.0, 1.0]
    for grid, box in zip(panel.grids, panel.boxes, strict=True):
        patch = (
            width_ * (box[2] - box[0]) / grid.size[1],
            height * (box[3] - box[1]) / grid.size[0],
        )
        by = max(by, PATCH / min(patch))
        least = [
            max(most, PATCH * side / one)
            for most, side, one in zip(least, panel.image.size, patch, strict=True)
        ]
    by = min(by, LONGEST / max(width_, height))
    return max(round(width_ * by), min(LONGEST, round(least[0]))), max(
        round(height * by), min(LONGEST, round(least[1]))
    )


def _row(
    panel: Panel,
    hidden: Image.Image | None,
    sites: Sequence[SiteTrace],
    small: Grid | None,
    rows: int,
) -> Iterator[Cell]:
    size = _size(panel, rows)
    image, places = panel.image.resize(size, Image.Resampling.LANCZOS), painting.cells(panel, size)
    sizes = {grid.size for grid in panel.grids}
    shape = " x ".join(map(str, next(iter(sizes)))) if len(sizes) == 1 else "patches"
    each = f"{len(panel.grids)} times " if len(panel.grids) > 1 else ""
    total = sum(len(grid.tokens) for grid in panel.grids)
    straight = (
        abs(size[0] * panel.image.height - size[1] * panel.image.width)
        <= panel.image.width + panel.image.height
    )
    stretched = "" if straight else ", drawn stretched"
    yield Cell(
        panel.title,
        f"{each}{shape}: {total} visual tokens{stretched}",
        painting.paint_unseen(image, hidden),
    )
    for site in sites:
        kept, centres, present = (
            painting.count(tokens.tolist(), panel.grids)
            for tokens in (site.keep, site.centres, site.present)
        )
        if small is not None:
            yield Cell(
                f"scaled to {small[0]} x {small[1]}",
                f"{kept} visual tokens of {total}",
                _scaled(panel, size, small),
            )
            continue
        recycled = f"{centres} recycled" if centres else ""
        line = " + ".join(filter(None, (f"{kept} kept" if kept or not centres else "", recycled)))
        painted = painting.paint(image, site, places, hidden)
        yield Cell(f"before layer {site.site}", f"{line} of {present}", painted)


def _scaled(panel: Panel, size: tuple[int, int], small: Grid) -> Image.Image:
    """Return the smaller image, its patches drawn as large as the panel's."""
    (grid,), (box,) = panel.grids, panel.boxes
    wide = round((box[2] - box[0]) * size[0] * small[1] / grid.size[1])
    high = round((box[3] - box[1]) * size[1] * small[0] / grid.size[0])
    return painting.paint_scaled(seen_part(panel), (max(1, wide), max(1, high)), small)


def _wide(cell: Cell) -> int:
    return max(cell.image.width, round(width(cell.title, TITLE)), round(width(cell.line, SMALL)))


def _tall(row: Sequence[Cell]) -> int:
    return TITLE + SMALL + 18 + max(cell.image.height for cell in row) + GAP


def _place(
    canvas: Image.Image, pen: ImageDraw.ImageDraw, place: tuple[int, int], cell: Cell
) -> None:
    x, y = place
    write(pen, (x, y), cell.title, TITLE, INK)
    write(pen, (x, y + TITLE + 5), cell.line, SMALL, GREY)
    y += TITLE + SMALL + 18
    pen.rectangle((x - 1, y - 1, x + cell.image.width, y + cell.image.height), outline=EDGE)
    canvas.paste(cell.image, (x, y))


def _heading(pen: ImageDraw.ImageDraw | None, y: int, room: int, words: Words) -> int:
    """Write question, answers and facts, if there is a pen, and return where the panels begin."""
    y = _lines(pen, y, room, [words.question] if words.question else [], LARGE, colour=INK)
    y += 4
    indent = round(max((width(label, TITLE) for label, _ in words.answers), default=0)) + 16
    for label, answer in words.answers:
        for index, line in enumerate(wrap(answer or "(nothing)", TITLE, room - indent)):
            if pen is not None:
                write(pen, (MARGIN, y), label if index == 0 else "", TITLE, GREY)
                write(pen, (MARGIN + indent, y), line, TITLE, INK)
            y += TITLE + 8
    return _lines(pen, y + 4, room, words.facts, SMALL) + GAP


def _lines(
    pen: ImageDraw.ImageDraw | None,
    y: int,
    room: int,
    texts: Sequence[str],
    size: int,
    *,
    colour: Colour = GREY,
) -> int:
    for text in texts:
        for line in wrap(text, size, room):
            if pen is not None:
                write(pen, (MARGIN, y), line, size, colour)
            y += size + 8
    return y


Entry = tuple[str, Colour, Colour]  # text, colour within, colour of the edge


def _legend(sites: Sequence[SiteTrace], small: Grid | None, hidden: bool) -> list[Entry]:
    """Return an entry for each thing that the panels show."""
    tint: Colour = (194, 160, 248)
    found: list[Entry] = []
    if small is None:
        kept, pooled = any(len(site.keep) for site in sites), any(len(site.pool) for site in sites)
        left = (
            any(len(site.keep) + len(site.pool) < len(site.present) for site in sites)
            or len(sites) > 1
        )
        found += [("kept: outlined", LIGHT, INK)] * kept
        found += [
            ("recycled: merged into the centre of its cluster", tint, TINT),
            ("centre", tint, FRAME),
        ] * pooled
        found += [("dropped, here or before", VEIL, VEIL)] * left
    elif sites:
        found.append(
            (
                "what the image encoder sees: a smaller image, patch by patch, drawn to scale",
                LIGHT,
                INK,
            )
        )
    return found + [("not seen: cut off by the image processor", (240, 214, 214), UNSEEN)] * hidden


def _key(pen: ImageDraw.ImageDraw | None, y: int, room: int, entries: Sequence[Entry]) -> int:
    x, box = MARGIN, SMALL + 3
    for text, fill, outline in entries:
        needed = box + 9 + round(width(text, SMALL))
        if x > MARGIN and x + needed > MARGIN + room:
            x, y = MARGIN, y + box + 10
        if pen is not None:
            pen.rectangle(
                (x, y, x + box, y + box),
                fill=fill,
                outline=outline,
                width=3 if outline == FRAME else 2,
            )
            write(pen, (x + box + 9, y + 1), text, SMALL, INK)
        x += needed + 28
    return y + box + 12 if entries else y
