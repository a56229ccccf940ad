"""The picture shows what the trace says, on any image, token by token, and in words."""

import numpy as np
import pytest
import torch
from PIL import Image

from sparsight.counts.layout import grids_layout
from sparsight.picture import Panel, Words, draw, sheet
from sparsight.picture import paint as painting
from sparsight.picture.paint import DARK, FRAME, LIGHT
from sparsight.picture.seen import WHOLE
from sparsight.sequence.trace import SiteTrace

SIDE, CELL = 4, 12
SIZE = (SIDE * CELL, SIDE * CELL)
WORDS = Words("what is this?", (("dense", "a cat"), ("sparse", "a cat " * 300)))


def site(present=range(16), keep=(0, 5, 12), centres=(10,), pool=(10, 11), layer=3):
    kinds = (torch.tensor(list(kind), dtype=torch.int64) for kind in (present, keep, centres, pool))
    return SiteTrace(layer, *kinds, labels=torch.zeros(len(pool), dtype=torch.int64), score=None)


def panel(image):
    return Panel("an image", image, grids_layout([(SIDE, SIDE)]).grids, (WHOLE,))


def cell(image, token, size=CELL):
    pixels = np.asarray(image).astype(int)
    y, x = divmod(token, SIDE)
    return pixels[y * size : (y + 1) * size, x * size : (x + 1) * size]


IMAGES = {
    "noise": Image.effect_noise(SIZE, 60).convert("RGB"),
    "black": Image.new("RGB", SIZE),
    "white": Image.new("RGB", SIZE, "white"),
    "grey": Image.new("RGB", SIZE, painting.VEIL),
    "violet": Image.new("RGB", SIZE, painting.TINT),
}


# ---- on any image


@pytest.mark.parametrize("name", IMAGES)
def test_each_token_is_painted_as_the_trace_says(name):
    source = IMAGES[name]
    places = painting.place_tokens(panel(source), SIZE)
    painted = painting.paint(source, site(), places, None)
    for token in range(16):
        before, after = cell(source, token)[3:-3, 3:-3], cell(painted, token)
        inside = after[3:-3, 3:-3]
        if token in (0, 5, 12):
            assert (inside == before).all()
            assert (after[0] == LIGHT).all()
            assert (after[:-1, -1] == LIGHT).all()
        elif token == 10:
            assert (after[0] == FRAME).all()
        else:
            veil = np.array(painting.TINT if token == 11 else painting.VEIL)
            assert abs(inside - veil).mean() <= abs(before - veil).mean() * 0.6 + 2
    # the outline's dark half lies outside: below token 0, right of token 12
    assert (cell(painted, 4)[0, :CELL] == DARK).all()
    assert (cell(painted, 13)[1:, 0] == DARK).all()


@pytest.mark.parametrize("name", IMAGES)
def test_kept_and_dropped_differ_on_any_image(name):
    """Two pictures that keep different tokens differ along a line around both, by a lot."""
    places = painting.place_tokens(panel(IMAGES[name]), SIZE)
    one, other = (
        np.asarray(
            painting.paint(IMAGES[name], site(keep=keep, centres=(), pool=()), places, None)
        ).astype(int)
        for keep in ((0, 1), (0, 2))
    )
    far = abs(one - other).max(axis=-1) > 60
    assert far[:CELL, CELL : 3 * CELL].sum() >= 2 * CELL


def test_the_outline_is_that_of_the_union():
    places = painting.place_tokens(panel(IMAGES["black"]), SIZE)
    painted = painting.paint(IMAGES["black"], site(keep=(5, 6), centres=(), pool=()), places, None)
    assert not cell(painted, 5)[2:-2, -1].any(), "no line between two that are kept"


def test_does_not_touch_its_input():
    source = IMAGES["noise"].copy()
    draw([panel(source)], [site()], WORDS)
    assert source.tobytes() == IMAGES["noise"].tobytes()


def test_two_drawings_agree():
    first, second = (draw([panel(IMAGES["noise"])], [site()], WORDS) for _ in range(2))
    assert first.mode == "RGB"
    assert first.tobytes() == second.tobytes()


def test_holds_a_row_for_each_panel_and_a_column_for_each_site():
    one = draw([panel(IMAGES["grey"])], [site()], WORDS)
    wide = draw([panel(IMAGES["grey"])], [site(), site(layer=7), site(layer=15)], WORDS)
    tall = draw([panel(IMAGES["grey"])] * 2, [site(), site(layer=7), site(layer=15)], WORDS)
    assert wide.width > one.width
    assert tall.width == wide.width
    assert tall.height - wide.height > 360
    assert draw([panel(IMAGES["grey"])], [], Words()).width > 1000


@pytest.mark.parametrize("size", [(40, 400), (400, 40), (3000, 2000), (7, 7)])
def test_panels_keep_their_shape(size):
    wide, high = sheet._choose_size(panel(Image.new("RGB", size)), 1)
    assert wide / high == pytest.approx(size[0] / size[1], rel=0.05)
    assert 2e4 < wide * high < 6e5


def test_clusters_are_parted_by_lines():
    names, labels = torch.tensor([4, 5, 6, 7]), torch.tensor([0, 0, 0, 1])
    trace = SiteTrace(0, torch.arange(16), names[:0], names[:1], names, labels, None)
    painted = painting.paint(
        IMAGES["black"], trace, painting.place_tokens(panel(IMAGES["black"]), SIZE), None
    )
    tint = cell(painted, 5)[5, 5]
    assert (cell(painted, 5)[5, -1] == tint).all(), "no line within a cluster"
    for line in (cell(painted, 6)[5, -1], cell(painted, 7)[5, 0], cell(painted, 6)[0, 5]):
        assert line.min() > tint.min() + 60
