"""Dense training pictures: many signs of random characters among many small things.

Signs have several fonts. A scene carries a few labelled patches, such a picture about a hundred.
Text has capitals of 10 to 40 px and things are 18 to 64 px large, each size as likely as its
double.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from labels import DIGITS, GRID, PAINT, PAINTS, SMALL, Font, glyphs, plate, scene_labels, write
from PIL import Image, ImageDraw, ImageFont

from sparsight.evaluate.scenes.ask import Turn
from sparsight.evaluate.scenes.catalogue import BACKGROUND_SIZE, COLOURS
from sparsight.evaluate.scenes.compose_small import add_small
from sparsight.evaluate.scenes.render import render
from sparsight.evaluate.scenes.scene import (
    SIZE,
    Box,
    Item,
    Pool,
    Scene,
    draw_things,
    empty_scene,
    place_box,
)

CAPITALS_PX = (10.0, 40.0)
THINGS_PX = (18, 64)
_BRIGHT = 140  # plates brighter than this carry black text
_DEFAULT = 0.6  # share of signs in Pillow's own font
_TEXTS = (("digits", 0.3), ("capitals", 0.2), ("small", 0.16), ("word", 0.17), ("WORD", 0.17))


@dataclass(frozen=True)
class Plate:
    """A text on a coloured plate in some font.

    Args:
        text: what is written.
        colour: of the plate.
        box: the plate.
        font: the font.
        start: (x, y) in px where the text starts on its baseline.
    """

    text: str
    colour: str
    box: Box
    font: Font
    start: tuple[int, int]


@dataclass(frozen=True)
class Dense:
    """A scene of things alone, and plates on it."""

    scene: Scene
    plates: tuple[Plate, ...]


@functools.cache
def load_font(path: str | None, size: int) -> Font:
    """Return a font file in a size in px; None is Pillow's own font."""
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)


@functools.cache
def _capital(path: str | None) -> float:
    """Return how high capitals are, in sizes of the font."""
    _, top, _, bottom = load_font(path, 200).getbbox("H", anchor="ls")
    return (bottom - top) / 200


def font_files(folder: Path | None) -> tuple[str, ...]:
    """Return the fonts of a folder, beside Pillow's own, in order."""
    return tuple(sorted(str(path) for path in folder.glob("*.ttf"))) if folder else ()


def compose_dense(seed: str, pool: Pool, words: Sequence[str], fonts: Sequence[str]) -> Dense:
    """Compose the dense picture of a seed.

    Args:
        seed: any text.
        pool: which photographs may be used.
        words: words that some signs show.
        fonts: font files beside Pillow's own font.
    """
    rng = random.Random(f"{seed}/dense")  # noqa: S311 - layouts, not secrets
    scene = empty_scene(rng, pool, BACKGROUND_SIZE)
    plates: list[Plate] = []
    taken: list[Box] = []
    for _ in range(rng.randrange(10, 15)):
        made = _plate(rng, words, fonts, taken)
        if made is not None:
            plates.append(made)
            taken.append(made.box)
    names = [thing.name for thing in draw_things(rng, rng.randrange(12, 19))]
    blocked = Scene(
        scene.background, scene.corner, scene.mirrored, tuple(Item("", None, box) for box in taken)
    )
    items = add_small(blocked, rng, names, 0.65, THINGS_PX).items[len(taken) :]
    return Dense(Scene(scene.background, scene.corner, scene.mirrored, items), tuple(plates))


def _text(rng: random.Random, words: Sequence[str]) -> str:
    kind = rng.choices([name for name, _ in _TEXTS], [share for _, share in _TEXTS])[0]
    if kind in ("word", "WORD"):
        word = rng.choice(words)
        return word.upper() if kind == "WORD" else word
    alphabet = {"digits": DIGITS, "capitals": SMALL.upper(), "small": SMALL}[kind]
    length = rng.randrange(1, 6) if kind == "digits" else rng.randrange(2, 7)
    return "".join(rng.choices(alphabet, k=length))


def _plate(
    rng: random.Random, words: Sequence[str], fonts: Sequence[str], taken: Sequence[Box]
) -> Plate | None:
    text = _text(rng, words)
    low, high = map(math.log, CAPITALS_PX)
    path = None if not fonts or rng.random() < _DEFAULT else rng.choice(fonts)
    size = max(8, round(math.exp(rng.uniform(low, high)) / _capital(path)))
    font = load_font(path, size)
    length = font.getlength(text)
    width, height = round(length + rng.uniform(0.5, 1.0) * size), round(1.5 * size)
    box = place_box(rng, width, height, taken) if width <= SIZE - 6 else None
    if box is None:
        return None
    x, y = box.centre
    baseline = y + _capital(path) * size / 2
    start = (round(x - length / 2), round(baseline))
    return Plate(text, rng.choice(tuple(COLOURS)), box, font, start)


def draw_dense(dense: Dense) -> Image.Image:
    """Return the picture, RGB, SIZE x SIZE."""
    picture = render(dense.scene)
    draw = ImageDraw.Draw(picture)
    for one in dense.plates:
        red, green, blue = COLOURS[one.colour]
        corners = (one.box.left, one.box.top, one.box.right - 1, one.box.bottom - 1)
        radius = (one.box.bottom - one.box.top) // 7
        draw.rounded_rectangle(corners, radius=radius, fill=(red, green, blue))
        ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > _BRIGHT else "white"
        draw.text(one.start, one.text, fill=ink, font=one.font, anchor="ls")
    return picture


def dense_labels(dense: Dense) -> np.ndarray:
    """Return the labels of a dense picture, (GRID^2, 6) int16."""
    out = scene_labels(dense.scene).reshape(GRID, GRID, 6)
    for one in dense.plates:
        out[plate(one.box), PAINT] = PAINTS.index(one.colour)
    write(out, [glyphs(one.text, one.font, *one.start) for one in dense.plates])
    return out.reshape(-1, 6)


def read_plate(dense: Dense, rng: random.Random) -> Turn | None:
    """Ask what is on a plate, named by its colour; None where no colour is on one plate alone."""
    colours = [one.colour for one in dense.plates]
    single = [one for one in dense.plates if colours.count(one.colour) == 1]
    if not single:
        return None
    one = rng.choice(single)
    noun = "number" if one.text.isdigit() else "text"
    answer = one.text if one.text.isdigit() else one.text.lower()
    return Turn(f"What {noun} is on the {one.colour} sign?", answer, ((one.box,),))


def read_all(dense: Dense, rng: random.Random) -> tuple[tuple[str, bool], ...]:
    """Return a table of all plates, from the top down: colour given, text to be said."""
    del rng
    rows = sorted(dense.plates, key=lambda one: (one.box.top, one.box.left))
    return tuple(
        piece
        for one in rows
        for piece in ((f" {one.colour} sign:", False), (f" {one.text.lower()}\n", True))
    )
