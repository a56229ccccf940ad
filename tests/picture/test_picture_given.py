"""Inputs of a picture: images as `Chat.ask` takes them, thin images, text, wrong inputs."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import (
    DeepseekVLImageProcessorPil,
)

from sparsight import sparsify
from sparsight.counts.layout import Block, grids_layout, layout_of
from sparsight.errors import InputError
from sparsight.methods import Downscale, Uniform
from sparsight.picture import Panel, Words, draw, lay_out_panels, sheet
from sparsight.picture import paint as painting
from sparsight.picture.frames import make_clip
from sparsight.picture.panels import crop_to_boxes
from sparsight.picture.seen import WHOLE, find_seen_boxes
from sparsight.picture.stills import LONGEST, PATCH
from tests.picture.test_picture import site
from tests.picture.test_picture_run import pixels_of
from tests.support import tiny

SIDE = {"height": 96, "width": 96}
PHOTO = Image.linear_gradient("L").convert("RGB").resize((24, 24))


def run_of_one(method):
    model = tiny.tiny_llava(dtype=torch.float32)
    with sparsify(model, method) as run, torch.no_grad():
        model(**pixels_of(PHOTO))
    return run


@pytest.fixture(scope="module")
def run():
    return run_of_one(Uniform(retain=9))


def cropping():
    return SimpleNamespace(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 96}, crop_size=SIDE)
    )


# ---- what `Chat.ask` takes


def test_images_of_every_kind_are_drawn_alike(run, tmp_path):
    PHOTO.save(tmp_path / "photo.png")
    path, seen = str(tmp_path / "photo.png"), PHOTO.copy()
    seen.putalpha(255)
    wanted = run.picture([PHOTO]).tobytes()
    for given in (
        PHOTO,
        [seen],
        path,
        [path],
        tmp_path / "photo.png",
        np.asarray(PHOTO),
        [np.asarray(PHOTO)],
    ):
        assert run.picture(given).tobytes() == wanted
    assert run.picture(image for image in [PHOTO]).tobytes() == wanted


def test_what_is_transparent_is_drawn_over_white(run):
    hidden = Image.new("RGBA", (24, 24), (255, 0, 0, 0))
    assert (
        run.picture(hidden).tobytes() == run.picture(Image.new("RGB", (24, 24), "white")).tobytes()
    )
    assert (
        run.picture([[hidden]]).tobytes()
        == run.picture([[Image.new("RGB", (24, 24), "white")]]).tobytes()
    )


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"images": None}, "the 0 given make 0"),
        ({"images": "nowhere.png"}, "nowhere.png: no such file"),
        ({"images": ["nowhere.png"]}, "nowhere.png: no such file"),
        ({"images": {"a": PHOTO}}, "images is of type dict"),
        ({"images": torch.zeros(3, 4, 4)}, "images is of type Tensor"),
        ({"images": [torch.zeros(3, 4, 4)]}, "image 1 is of type Tensor"),
        ({"images": [None]}, "image 1 is of type NoneType"),
        ({"images": [[PHOTO, 7]]}, "frame 2 of clip 1 is of type int"),
        ({"images": Image.new("RGB", (0, 0))}, "image 1 has no pixels: 0 x 0"),
        ({"question": 7}, "question is of type int; give a str"),
        ({"answers": ["a cat"]}, "answers is of type list; give a dict"),
        ({"answers": {"dense": 7}}, "answers holds 7 of type int"),
        ({"answers": {7: "a cat"}}, "answers holds 7 of type int"),
        ({"sample": "0"}, "sample='0' is of type str; give an int"),
        ({"sample": 0.0}, "sample=0.0 is of type float"),
        ({"sample": True}, "sample=True is of type bool"),
        ({"sample": None}, "sample=None is of type NoneType"),
        ({"sample": -1}, "sample=-1: the last prefill had 1 samples"),
        ({"processor": "p"}, "processor is of type str and has no image_processor"),
        (
            {"processor": cropping().image_processor},
            "processor is of type CLIPImageProcessor.* has no image_processor",
        ),
    ],
)
def test_wrong_things_are_named(run, given, part):
    with pytest.raises(InputError, match=part):
        run.picture(**({"images": PHOTO} | given))


def test_a_sample_may_be_a_number_of_numpy(run):
    assert run.picture(PHOTO, sample=np.int64(0)).mode == "RGB"


# ---- long and thin

THIN = [(1, 2000), (3, 900), (2000, 8), (1, 1), (2, 40), (40, 3)]


@pytest.mark.parametrize("size", THIN)
@pytest.mark.parametrize(
    "method", [Uniform(retain=9), Downscale(retain=16)], ids=["uniform", "downscale"]
)
def test_a_thin_image_that_is_seen_whole_is_drawn(method, size, monkeypatch):
    written, plain = [], sheet.write
    monkeypatch.setattr(
        sheet,
        "write",
        lambda pen, place, text, *a: (written.append(text), plain(pen, place, text, *a)),
    )
    run_of_one(method).picture(Image.new("RGB", size))
    stretched = max(size) > 1200 / 36 * min(size)
    assert any("36 visual tokens, drawn stretched" in text for text in written) == stretched


@pytest.mark.parametrize("size", THIN)
def test_every_token_of_a_thin_image_has_room(size):
    rows, _ = lay_out_panels(grids_layout([(24, 24)]), [Image.new("RGB", size)])
    drawn = sheet._choose_size(rows[0], 1)
    assert min(drawn) >= 24 * PATCH
    assert max(drawn) <= LONGEST
    for grid in ((24, 24), (1, 3000), (3000, 1)):
        (panel,), _ = lay_out_panels(grids_layout([grid]), [Image.new("RGB", size)])
        drawn = sheet._choose_size(panel, 1)
        for left, top, right, bottom in painting.place_tokens(panel, drawn).spans.values():
            assert 0 <= left < right <= drawn[0]
            assert 0 <= top < bottom <= drawn[1]


@pytest.mark.parametrize("size", [(1, 2000), (3, 900), (2000, 8)])
def test_an_image_that_next_to_nothing_is_seen_of_is_refused(size):
    wanted = f"the image cannot be drawn: of its {size[0]} x {size[1]} pixels"
    wanted += ".*less than 1.5 % of the length; crop"
    with pytest.raises(InputError, match=wanted):
        lay_out_panels(grids_layout([(4, 4)]), [Image.new("RGB", size)], cropping())


@pytest.mark.parametrize("size", [(30, 1000), (1000, 20), (1, 41)])
def test_of_a_thin_image_what_lies_near_is_drawn(size):
    image = Image.new("RGB", size, "red")
    middle = tuple((side - min(size)) // 2 for side in size)
    image.paste("blue", (*middle, *(start + min(size) for start in middle)))
    (panel,), notes = lay_out_panels(grids_layout([(24, 24)]), [image], cropping())
    assert notes == [
        "the image is long and thin: only what is seen of it and what lies near is drawn."
    ]
    assert max(panel.image.size) < max(size)
    assert min(panel.image.size) == min(size)
    drawn = sheet._choose_size(panel, 1)
    spans = painting.place_tokens(panel, drawn).spans.values()
    assert min(min(right - left, bottom - top) for left, top, right, bottom in spans) >= PATCH - 2
    wanted = [edge * side for edge, side in zip(panel.boxes[0], panel.image.size * 2, strict=True)]
    blue = np.asarray(panel.image)[..., 2] == 255
    rows, columns = np.flatnonzero(blue.any(axis=1)), np.flatnonzero(blue.any(axis=0))
    found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert np.abs(np.subtract(found, wanted)).max() < 0.15 * min(size) + 0.3
    assert draw([panel], [site()], Words()).mode == "RGB"


def test_an_image_of_few_pixels_is_taken_as_whole():
    stretching = SimpleNamespace(
        image_processor=CLIPImageProcessorPil(size=SIDE, do_center_crop=False)
    )
    padding = SimpleNamespace(image_processor=DeepseekVLImageProcessorPil(size=SIDE))
    for size in ((1, 1), (1, 9), (3, 2), (4, 4)):
        assert find_seen_boxes(stretching, size) == [WHOLE]
    assert find_seen_boxes(cropping(), (2, 2)) == [WHOLE]
    (box,) = find_seen_boxes(padding, (1, 4))
    assert box == pytest.approx((-1.5, 0, 2.5, 1), abs=0.1)


def test_the_padding_of_a_thin_image_is_drawn_within_bounds():
    padding = SimpleNamespace(image_processor=DeepseekVLImageProcessorPil(size=SIDE))
    (panel,), _ = lay_out_panels(grids_layout([(4, 4)]), [Image.new("RGB", (40, 6000))], padding)
    assert max(panel.image.size) <= 2 * LONGEST + 1


def test_a_thin_frame_is_drawn():
    (panel,), _ = lay_out_panels(
        layout_of((Block(4, 4),)), [make_clip([Image.new("RGB", (1, 2000))])]
    )
    assert min(sheet._choose_size(panel, 1)) >= 4 * PATCH


@pytest.mark.parametrize("box", [(0.5, 0.4, 0.501, 0.401), (0.999, 0.999, 1, 1), (0, 0, 0.001, 1)])
def test_what_is_seen_of_an_image_is_a_pixel_at_least(box):
    panel = Panel("an image", Image.new("RGB", (20, 20)), grids_layout([(2, 2)]).grids, (box,))
    assert min(crop_to_boxes(panel).size) >= 1
