"""Writes text on pictures, in the fonts that ship; a character that none has becomes [U+XXXX]."""

import unicodedata
from functools import lru_cache
from pathlib import Path

from PIL import ImageDraw, ImageFont

FOLDER = Path(__file__).parent / "fonts"
# Latin, Greek and Cyrillic; Chinese, Japanese and Korean; arrows, marks and some pictures
FONTS = ("NotoSans-Regular.ttf", "DroidSansFallback.ttf", "NotoSansSymbols2-Regular.ttf")
MISSING = "\uffff"  # no character; drawn as a font draws what it does not have
SHAPELESS = ("Mn", "Me", "Cf", "Cc")  # categories: marks on a letter, joiners, controls
Colour = tuple[int, int, int]


@lru_cache(maxsize=64)
def load_font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Return one of the fonts that ship, at a size in px."""
    return ImageFont.truetype(str(FOLDER / name), size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=4096)
def find_font(letter: str) -> str | None:
    """Return the name of the first font that has a character; None if none has."""
    for name in FONTS:
        font = load_font(name, 40)
        lacks = bytes(font.getmask(MISSING)) == bytes(font.getmask(letter))
        if not lacks and (letter.isspace() or font.getmask(letter).getbbox() is not None):
            return name
    return None


def split_by_font(text: str) -> list[tuple[str, str]]:
    """Return font and text of the longest pieces of a text that need one font.

    Accents that stand behind their letter are joined with it. A character that no font has becomes
    [U+XXXX]; marks and joiners behind it are left out, as they only change its shape.
    """
    pieces: list[tuple[str, str]] = []
    missing = False  # whether no font has the letter before
    for letter in unicodedata.normalize("NFC", text):
        name = find_font(" " if letter.isspace() else letter)
        if name is None and missing and unicodedata.category(letter) in SHAPELESS:
            continue
        missing = name is None
        if name is None:
            name = FONTS[0]
            piece = f"[U+{ord(letter):04X}]"
        else:
            piece = letter
        if pieces and pieces[-1][0] == name:
            pieces[-1] = (name, pieces[-1][1] + piece)
        else:
            pieces.append((name, piece))
    return pieces


def measure_width(text: str, size: int) -> float:
    """Return the width of a line of text, px."""
    return sum(load_font(name, size).getlength(piece) for name, piece in split_by_font(text))


def write(
    pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, colour: Colour
) -> None:
    """Write one line of text; `place` is its upper left corner, px."""
    x, y = place
    # a font's ascent leaves room for accents on capitals, which are rare: 0.86 of it is enough
    base = y + load_font(FONTS[0], size).getmetrics()[0] * 0.86
    for name, piece in split_by_font(text):
        font = load_font(name, size)
        pen.text((x, base), piece, colour, font, anchor="ls")
        x += font.getlength(piece)


def wrap(text: str, size: int, room: float, most: int = 6) -> list[str]:
    """Return a text in at most `most` lines of at most `room` px.

    Lines break between words, and within a word that is longer than a line.
    """
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if measure_width(longer, size) <= room:
            lines[-1] = longer
            continue
        lines.append("")
        for letter in word:
            if measure_width(lines[-1] + letter, size) > room:
                lines.append("")
            lines[-1] += letter
    lines = [line for line in lines if line] or [""]
    if len(lines) > most:
        return [*lines[: most - 1], lines[most - 1] + " \N{HORIZONTAL ELLIPSIS}"]
    return lines
