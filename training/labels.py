"""What each patch of a picture shows: which thing or characters, and in which colour.

A label is a row of six numbers per patch, in raster order: NAME, SECOND, PAINT, LEFT, RIGHT and
WORD. NAME and SECOND index `VOCABULARY`, PAINT indexes `PAINTS`, LEFT and RIGHT index `VOCABULARY`
too and say which character covers the left and the right half of the patch, WORD is 1 + the index
of the whole word in `CLOSED`. 0 is nothing, everywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from easy_vqa import EasyVQA
from PIL import Image, ImageFont

from sparsight.evaluate.scenes.catalogue import COLOURS, GOODS, THINGS, WORDS
from sparsight.evaluate.scenes.render import placed
from sparsight.evaluate.scenes.scene import SIZE, Box, Item, Scene
from sparsight.evaluate.scenes.writing import Characters, row_characters, sign_characters

PATCH = 14  # px
GRID = SIZE // PATCH
NOTHING = "background"
SHAPES = ("circle", "rectangle", "triangle")
DIGITS = "0123456789"
SMALL = "abcdefghijklmnopqrstuvwxyz"
CLOSED = tuple(dict.fromkeys((*WORDS, *GOODS)))  # words that signs and sheets show
CHARACTERS = DIGITS + SMALL + SMALL.upper() + ".,:;-/%#$&'!?()+="
NAMES = (NOTHING, *dict.fromkeys([*(thing.name for thing in THINGS), *SHAPES]))
VOCABULARY = (*NAMES, *CHARACTERS)
PAINTS = (NOTHING, *dict.fromkeys([*COLOURS, "teal", "gray", "brown"]))
NAME, SECOND, PAINT, LEFT, RIGHT, WORD = range(6)
_CHARACTER = {character: len(NAMES) + i for i, character in enumerate(CHARACTERS)}
_COVERED = 0.4  # share of a patch that shows a thing for the patch to stand for it, or
_OF_THING = 0.2  # that share of the thing lies in the patch
_COVERED_BY_CHARACTER = 0.2  # the same for a character, or
_OF_CHARACTER = 0.2  # that share of the character lies in the patch
_INK = 40  # difference from the corner's pixel, 0 to 255, that makes a pixel part of a drawn shape

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Glyphs:
    """A written text.

    Args:
        text: its characters.
        boxes: (len(text), 4) left, top, right and bottom of each character in px.
    """

    text: str
    boxes: np.ndarray


def glyphs(text: str, font: Font, left: float, baseline: float) -> Glyphs:
    """Return where each character of a text stands that starts at `left` on a baseline, in px."""
    edges = [left + font.getlength(text[:i]) for i in range(len(text) + 1)]
    heights = [_height(font, character) for character in text]
    rows = [
        (edges[i], baseline + top, edges[i + 1], baseline + bottom)
        for i, (top, bottom) in enumerate(heights)
    ]
    return Glyphs(text, np.array(rows, np.float32).reshape(-1, 4))


@functools.cache
def _height(font: Font, character: str) -> tuple[float, float]:
    _, top, _, bottom = font.getbbox(character, anchor="ls")
    return top, bottom


def scene_labels(scene: Scene, grid: int = GRID) -> np.ndarray:
    """Return the labels of a scene, (grid^2, 6) int16."""
    out = np.zeros((grid, grid, 6), np.int16)
    for item in scene.items:
        shares = coverage(item, grid)
        here = shares >= min(_COVERED, _OF_THING * float(shares.sum()))
        out[here, NAME] = NAMES.index(item.thing)
        out[here, PAINT] = PAINTS.index(item.colour or NOTHING)
    for sign in scene.signs:
        out[plate(sign.box, grid), PAINT] = PAINTS.index(sign.colour)
    texts = [_glyphs(sign_characters(sign)) for sign in scene.signs]
    for paper in scene.papers:
        texts += [
            _glyphs(text) for row in range(len(paper.rows)) for text in row_characters(paper, row)
        ]
    write(out, texts)
    return out.reshape(-1, 6)


def _glyphs(characters: Characters) -> Glyphs:
    boxes = [(box.left, box.top, box.right, box.bottom) for _, box in characters]
    text = "".join(character for character, _ in characters)
    return Glyphs(text, np.array(boxes, np.float32).reshape(-1, 4))


def coverage(item: Item, grid: int) -> np.ndarray:
    """Return the share of each patch that a thing covers, (grid, grid) in [0, 1]."""
    image, (left, top) = placed(item)
    canvas = np.zeros((SIZE, SIZE), np.float32)
    alpha = np.asarray(image.getchannel("A"), np.float32) / 255
    alpha = alpha[max(0, -top) : SIZE - top, max(0, -left) : SIZE - left]
    top, left = max(0, top), max(0, left)
    canvas[top : top + alpha.shape[0], left : left + alpha.shape[1]] = alpha
    step = SIZE // grid
    shares: np.ndarray = canvas.reshape(grid, step, grid, step).mean((1, 3))
    return shares


def plate(box: Box, grid: int = GRID) -> np.ndarray:
    """Return which patches a box covers mostly, (grid, grid) bool."""
    rows = _overlap(np.array([[box.top, box.bottom]]), grid)[0]
    columns = _overlap(np.array([[box.left, box.right]]), grid)[0]
    shares: np.ndarray = np.outer(rows, columns) >= _COVERED * (SIZE / grid) ** 2
    return shares


def _overlap(spans: np.ndarray, cells: int) -> np.ndarray:
    """Return how many px of each span lie in each of the cells that divide SIZE, (spans, cells)."""
    edges = np.arange(cells + 1) * (SIZE / cells)
    low = np.maximum(spans[:, :1], edges[None, :-1])
    high = np.minimum(spans[:, 1:], edges[None, 1:])
    lengths: np.ndarray = np.clip(high - low, 0, None)
    return lengths


def write(out: np.ndarray, texts: Sequence[Glyphs]) -> None:
    """Add what texts say to labels, (grid, grid, 6), in place.

    The character that covers most of a patch is its NAME. Where the two halves show two different
    characters, the left one is NAME and the right one SECOND.
    """
    texts = [text for text in texts if text.text]
    if not texts:
        return
    grid = out.shape[0]
    boxes = np.concatenate([text.boxes for text in texts])
    numbers = np.array([_CHARACTER.get(c, 0) for text in texts for c in text.text])
    rows = _overlap(boxes[:, [1, 3]], grid)
    columns = _overlap(boxes[:, [0, 2]], 2 * grid)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    halves = rows[:, :, None] * columns[:, None, :]  # (characters, grid, 2 * grid)
    whole = halves.reshape(len(boxes), grid, grid, 2).sum(-1)
    cell = (SIZE / grid) ** 2
    of_half = _shown(halves, areas, cell / 2).reshape(grid, grid, 2)
    of_whole = _shown(whole, areas, cell)
    both = (of_half >= 0).all(-1) & (of_half[..., 0] != of_half[..., 1]) & (of_whole >= 0)
    named = np.append(numbers, 0)  # -1, no character, reads the last one
    first = np.where(both, of_half[..., 0], of_whole)
    shown = named[first] > 0
    out[shown, NAME] = named[first][shown]
    out[..., SECOND] = np.where(both & shown, named[of_half[..., 1]], 0)
    out[..., LEFT], out[..., RIGHT] = named[of_half[..., 0]], named[of_half[..., 1]]
    owners = np.concatenate([np.full(len(t.text), _word(t.text)) for t in texts])
    out[..., WORD] = np.append(owners, 0)[of_whole]


def _word(text: str) -> int:
    word = text.lower()
    return CLOSED.index(word) + 1 if word in CLOSED else 0


def _shown(maps: np.ndarray, areas: np.ndarray, cell: float) -> np.ndarray:
    """Return the number of the character that each cell shows, -1 for none."""
    best = maps.argmax(0)
    most = maps.max(0)
    enough = (most >= _COVERED_BY_CHARACTER * cell) | (most >= _OF_CHARACTER * areas[best])
    shown: np.ndarray = np.where(enough & (most > 0), best, -1)
    return shown


def shape_labels(source: EasyVQA, number: int) -> np.ndarray:
    """Return the labels of a drawn shape, (GRID^2, 6) int16."""
    out = np.zeros((GRID**2, 6), np.int16)
    pixels = np.asarray(source.image(number), np.int16)
    ink = (np.abs(pixels - pixels[0, 0]).max(-1) > _INK).astype(np.uint8) * 255
    shares = np.asarray(Image.fromarray(ink).resize((GRID, GRID), Image.Resampling.BOX))
    here = shares.ravel() >= 255 * _COVERED
    for question in source.by_image[number]:
        if question.answer in SHAPES:
            out[here, NAME] = NAMES.index(question.answer)
        elif question.answer in PAINTS:
            out[here, PAINT] = PAINTS.index(question.answer)
    return out
