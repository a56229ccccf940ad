"""Text on pictures: letters from the fonts that ship, character by character, and [U+XXXX] for what none has."""

import unicodedata
from functools import lru_cache
from pathlib import Path

from PIL import ImageDraw, ImageFont

FOLDER = Path(__file__).parent / "fonts"
# Latin, Greek and Cyrillic; Chinese, Japanese and Korean; arrows, marks and some pictures
FONTS = ("NotoSans-Regular.ttf", "DroidSansFallback.ttf", "NotoSansSymbols2-Regular.ttf")
MISSING = "\uffff"  # no character: what a font draws for what it lacks
UNSEEN = (
    "Mn",
    "Me",
    "Cf",
    "Cc",
)  # marks on the letter before, joiners and controls: without a shape of their own
Colour = tuple[int, int, int]


@lru_cache(maxsize=64)
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Return one of the fonts that ship."""
    return ImageFont.truetype(str(FOLDER / name), size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=4096)
def font_of(letter: str) -> str | None:
    """Return the first font that has a character; None if none has."""
    for name in FONTS:
        own = font(name, 40)
        lacks = bytes(own.getmask(MISSING)) == bytes(own.getmask(letter))
        if not lacks and (letter.isspace() or own.getmask(letter).getbbox() is not None):
            return name
    return None


def spelled(text: str) -> list[tuple[str, str]]:
    """Split text into the longest pieces of one font each.

    Accents that stand behind their letter are joined with it. A character that no font has becomes
    [U+XXXX]; of such a one, the marks and joiners behind it are left out, as they only change its
    look.

    Returns: font and piece, in order.
    """
    pieces: list[tuple[str, str]] = []
    lost = False
    for letter in unicodedata.normalize("NFC", text):
        name = font_of(" " if letter.isspace() else letter)
        if name is None and lost and unicodedata.category(letter) in UNSEEN:
            continue
        lost = name is None
        name, shown = (FONTS[0], f"[U+{ord(letter):04X}]") if name is None else (name, letter)
        if pieces and pieces[-1][0] == name:
            pieces[-1] = (name, pieces[-1][1] + shown)
        else:
            pieces.append((name, shown))
    return pieces


def width(text: str, size: int) -> float:
    """Return how many px a text takes."""
    return sum(font(name, size).getlength(piece) for name, piece in spelled(text))


def write(
    pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, colour: Colour
) -> None:
    """Write one line; `place` is its upper left corner in px."""
    x, y = place
    base = (
        y + font(FONTS[0], size).getmetrics()[0] * 0.86
    )  # the metrics leave room for accents on capitals
    for name, piece in spelled(text):
        own = font(name, size)
        pen.text((x, base), piece, colour, own, anchor="ls")
        x += own.getlength(piece)


def wrap(text: str, size: int, room: float, most: int = 6) -> list[str]:
    """Break text into at most `most` lines that fit, by words and, where a word is too long, by letters."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if width(longer, size) <= room:
            lines[-1] = longer
            continue
        lines.append("")
        for letter in word:
            if width(lines[-1] + letter, size) > room:
                lines.append("")
            lines[-1] += letter
    lines = [line for line in lines if line] or [""]
    return (
        lines
        if len(lines) <= most
        else [*lines[: most - 1], lines[most - 1] + " \N{HORIZONTAL ELLIPSIS}"]
    )
