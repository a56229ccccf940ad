"""Text in scenes: fonts, how much room a text needs, and the box of every character."""

import functools

from PIL import ImageFont

from sparsight.evaluate.scenes.scene import Box, Paper, Scene, Sign

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Characters = tuple[tuple[str, Box], ...]  # each character with its box in px
PITCH = 1.5  # from one row of a sheet to the next, in fonts
_PAD = 0.6  # between a sheet's edge and its text, in fonts
_SIGN_PAD = 0.45  # between a plate's left or right edge and its text, in fonts
_WIDTHS = {"M": 0.9, "W": 0.98, "I": 0.3} | dict.fromkeys("0123456789", 0.62)
_USUAL = 0.76  # room of every other capital, in fonts


@functools.cache
def font_of(size: int) -> Font:
    """Return Pillow's default font in a size in px."""
    return ImageFont.load_default(size)


def capital_height(size: int) -> int:
    """Return how many px a capital H is high in a font of so many px."""
    return round(-font_of(size).getbbox("H", anchor="ls")[1])


def room_for(text: str, size: int) -> int:
    """Return the px that a text of capitals and digits fits in, with every version of Pillow."""
    return round(size * sum(_WIDTHS.get(character, _USUAL) for character in text))


def plate_size(text: str, size: int) -> tuple[int, int]:
    """Return width and height in px of a plate for a text."""
    return room_for(text, size) + round(2 * _SIGN_PAD * size), round(1.5 * size)


def sheet_height(rows: int, size: int) -> int:
    """Return px that a sheet with so many rows is high."""
    return round((rows * PITCH + _PAD) * size)


def row_origins(paper: Paper, row: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return where a row's label starts and its value ends: (x, y) on the baseline in px."""
    pad = round(_PAD * paper.font)
    y = paper.box.top + round((PITCH * (row + 1)) * paper.font) - round(0.1 * paper.font)
    return (paper.box.left + pad, y), (paper.box.right - pad, y)


def sign_characters(sign: Sign) -> Characters:
    """Return the characters on a sign, whose text is centred."""
    font = font_of(sign.font)
    middle, start = font.getbbox(sign.text, anchor="mm"), font.getbbox(sign.text, anchor="ls")
    x, y = sign.box.centre
    return _characters(sign.text, font, x + middle[0] - start[0], y + middle[1] - start[1])


def row_characters(paper: Paper, row: int) -> tuple[Characters, Characters]:
    """Return the characters of a row's label and of its value."""
    font = font_of(paper.font)
    label, value = paper.rows[row]
    (left, y), (right, _) = row_origins(paper, row)
    start = right - font.getlength(value)
    return _characters(label, font, left, y), _characters(value, font, start, y)


def characters(scene: Scene) -> Characters:
    """Return every character in a scene with its box."""
    signs = [one for sign in scene.signs for one in sign_characters(sign)]
    rows = [row_characters(paper, row) for paper in scene.papers for row in range(len(paper.rows))]
    return (*signs, *(one for label, value in rows for one in (*label, *value)))


def _characters(text: str, font: Font, x: float, y: float) -> Characters:
    """Return the characters of a text that starts at x on the baseline y, with their boxes.

    A box is as wide as its character advances, and as high as the ink of the character.
    """
    boxes = []
    for number, character in enumerate(text):
        left = x + font.getlength(text[:number])
        right = x + font.getlength(text[: number + 1])
        _, top, _, bottom = font.getbbox(character, anchor="ls")
        boxes.append((character, Box(*map(round, (left, y + top, right, y + bottom)))))
    return tuple(boxes)
