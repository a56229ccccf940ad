"""The picture shows what the trace says, token by token."""

import numpy as np
import pytest
import torch
from PIL import Image

from sparsight.errors import UnsupportedError
from sparsight.picture import DARK, FRAME, Words, draw, grid_side, paint, seen_images
from sparsight.trace import SiteTrace

SIDE, CELL = 4, 10
WORDS = Words("what is this?", (("dense", "a cat"), ("sparse", "a cat " * 300)))


def site(present=range(32), keep=(0, 5, 31), centres=(6,), pool=(6, 7, 16), layer=3):
    kinds = (torch.tensor(list(kind), dtype=torch.int64) for kind in (present, keep, centres, pool))
    return SiteTrace(layer, *kinds, labels=torch.zeros(len(pool), dtype=torch.int64), score=None)


def cell(image, token):
    pixels = np.asarray(image).astype(int)
    y, x = divmod(token, SIDE)
    return pixels[y * CELL : (y + 1) * CELL, x * CELL : (x + 1) * CELL]


def seen():
    return Image.effect_noise((SIDE * CELL, SIDE * CELL), 60).convert("RGB")


@pytest.mark.parametrize(("tokens", "images", "side"), [(576, 1, 24), (1152, 2, 24), (36, 1, 6), (4, 4, 1)])
def test_finds_the_grid(tokens, images, side):
    assert grid_side(tokens, images) == side


@pytest.mark.parametrize(("tokens", "images"), [(575, 1), (577, 2), (0, 1), (5, 0), (1152, 1)])
def test_refuses_what_is_no_grid(tokens, images):
    with pytest.raises(UnsupportedError, match="no square grid"):
        grid_side(tokens, images)


def test_gives_back_what_the_model_saw():
    original = Image.linear_gradient("L").convert("RGB")
    values = torch.from_numpy(np.asarray(original).copy()).permute(2, 0, 1)[None] / 255
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    normal = (values - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    (back,) = seen_images(normal, mean, std, size=256)
    assert back.tobytes() == original.tobytes()
    assert [image.size for image in seen_images(normal, mean, std, size=512)] == [(512, 512)]


@pytest.mark.parametrize("image", [0, 1])
def test_paints_each_token_as_the_trace_says(image):
    source = seen()
    panel = paint(source, site(), image, SIDE)
    own = range(image * 16, image * 16 + 16)
    for name in own:
        token = name - own.start
        before, after = cell(source, token), cell(panel, token)
        if name in (0, 5, 31):
            assert (after == before).all()
        elif name == 6:
            assert (after[0] == FRAME).all()
            assert (after[:, -1] == FRAME).all()
        elif name in (7, 16):
            assert after[..., 2].mean() > before[..., 2].mean()  # the tint is violet
            assert (after[0] != FRAME).any()
        else:
            assert abs(after - np.array(DARK)).mean() < abs(before - np.array(DARK)).mean() / 4


def test_does_not_touch_its_input():
    source = seen()
    before = source.tobytes()
    draw([source, source], [site()], SIDE, WORDS)
    assert source.tobytes() == before


def test_holds_a_row_for_each_image_and_a_panel_for_each_site():
    one = draw([seen()], [site()], SIDE, WORDS)
    wide = draw([seen()], [site(), site(layer=7), site(layer=15)], SIDE, WORDS)
    tall = draw([seen(), seen()], [site(), site(layer=7), site(layer=15)], SIDE, WORDS)
    assert one.mode == "RGB"
    assert wide.width > one.width
    assert tall.width == wide.width
    assert tall.height - wide.height > 360


def test_draws_a_run_that_pruned_nothing():
    assert draw([seen()], [], SIDE, Words("", ())).width > 1000


def test_two_drawings_agree():
    first, second = (draw([Image.new("RGB", (40, 40), "teal")], [site()], SIDE, WORDS) for _ in range(2))
    assert first.tobytes() == second.tobytes()
