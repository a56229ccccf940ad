"""Text in scenes is as high as documented, fits its plate, and lies in its characters' boxes."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sparsight.evaluate.scenes.catalogue import COLOURS, GOODS, WORDS
from sparsight.evaluate.scenes.compose_small import FONTS, compose2
from sparsight.evaluate.scenes.render import render
from sparsight.evaluate.scenes.scene import SIZE, Scene
from sparsight.evaluate.scenes.writing import (
    capital_height,
    characters,
    font_of,
    plate_size,
    row_characters,
    sign_characters,
)


def scenes(kind, count):
    return [compose2(f"{number}", "train", kind) for number in range(count)]


@pytest.mark.parametrize(("kind", "least", "most"), [("signs", 18, 39), ("fine", 10, 16)])
def test_capitals_are_as_high_as_documented(kind, least, most):
    heights = []
    for size in range(FONTS[kind][0], FONTS[kind][1] + 1):
        canvas = Image.new("L", (90, 90))
        ImageDraw.Draw(canvas).text((5, 80), "H", fill=255, font=font_of(size), anchor="ls")
        rows = np.flatnonzero((np.asarray(canvas) > 60).any(axis=1))
        heights.append(int(rows[-1] - rows[0] + 1))
        assert abs(capital_height(size) - heights[-1]) <= 1
    assert (min(heights), max(heights)) == (least, most)
    used = {sign.font for scene in scenes(kind, 30) for sign in scene.signs}
    assert FONTS[kind][0] <= min(used) < max(used) <= FONTS[kind][1]


@pytest.mark.parametrize("size", [14, 19, 25, 40, 57])
def test_plates_and_sheets_have_room_for_their_text(size):
    for text in (*WORDS, *GOODS, "4444", "88"):
        width, _ = plate_size(text.upper(), size)
        assert font_of(size).getlength(text.upper()) + 0.3 * size <= width


@pytest.mark.parametrize("kind", ["signs", "fine", "mixed"])
def test_characters_lie_in_their_boxes(kind):
    for scene in scenes(kind, 6):
        for sign in scene.signs:
            alone = Scene(scene.background, scene.corner, False, (), (sign,))
            inside = replace(sign.box, left=sign.box.left + 3, right=sign.box.right - 3)
            check_ink(alone, inside, COLOURS[sign.colour], sign_characters(sign))
            assert read_text(sign_characters(sign)) == sign.text


def read_text(boxed):
    return "".join(character for character, _ in boxed)


def test_rows_lie_in_their_boxes():
    for scene in scenes("document", 6):
        (paper,) = scene.papers
        assert 6 <= len(paper.rows) <= 12
        check_ink(scene, paper.box, (250, 248, 240), characters(scene))
        for row, (label, value) in enumerate(paper.rows):
            texts = [read_text(part) for part in row_characters(paper, row)]
            assert texts == [label, value]


def check_ink(scene, area, plain, boxes):
    """Check that characters' boxes hold all ink, which is what is not of the plain colour."""
    pixels = np.asarray(render(scene), dtype=int)
    ink = np.abs(pixels - np.array(plain)).sum(-1) > 150
    marks = np.zeros((SIZE, SIZE), dtype=bool)
    marks[area.top + 3 : area.bottom - 3, area.left : area.right] = True
    ink &= marks
    for _, box in boxes:
        assert ink[box.top : box.bottom, box.left : box.right].mean() > 0.1
    for _, box in boxes:
        ink[box.top - 1 : box.bottom + 1, box.left - 1 : box.right + 1] = False
    assert not ink.any()
