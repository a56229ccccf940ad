"""The part of an image that its processor shows to the model; and the letters on a picture."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import (
    DeepseekVLImageProcessorPil,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from sparsight.counts.layout import grids_layout
from sparsight.errors import InputError
from sparsight.picture import lay_out_panels
from sparsight.picture import paint as painting
from sparsight.picture.seen import WHOLE, find_seen_boxes
from sparsight.picture.text import FONTS, find_font, measure_width, split_by_font, wrap, write
from tests.support import tiny_processor

CROP = {"height": 96, "width": 96}


def alone(processor):
    """A processor that is no more than its image processor."""
    return SimpleNamespace(image_processor=processor)


def close(boxes, wanted, tolerance=0.02):
    assert len(boxes) == len(wanted)
    assert np.abs(np.array(boxes) - np.array(wanted)).max() < tolerance, boxes


@pytest.mark.parametrize("size", [(300, 900), (900, 300), (400, 400), (97, 130), (40, 33)])
def test_a_centre_crop_is_found(size):
    boxes = find_seen_boxes(
        alone(CLIPImageProcessorPil(size={"shortest_edge": 96}, crop_size=CROP)), size
    )
    width_, height = size
    across, down = min(1, height / width_) / 2, min(1, width_ / height) / 2
    close(boxes, [(0.5 - across, 0.5 - down, 0.5 + across, 0.5 + down)])


def test_a_processor_with_words_is_asked_as_a_whole():
    close(
        find_seen_boxes(tiny_processor.processor(), (48, 24)), [(0.25, 0, 0.75, 1)], tolerance=0.05
    )


def test_nothing_but_stretching_shows_the_whole_image():
    assert find_seen_boxes(None, (300, 900)) == [WHOLE]
    assert find_seen_boxes(alone(Qwen2VLImageProcessorPil()), (300, 900)) == [WHOLE]
    assert find_seen_boxes(alone(LlavaNextImageProcessorPil()), (300, 900)) == [WHOLE]
    stretched = CLIPImageProcessorPil(size=CROP, do_center_crop=False)
    assert find_seen_boxes(alone(stretched), (300, 900)) == [WHOLE]


def test_padding_reaches_outside_of_the_image():
    boxes = find_seen_boxes(alone(DeepseekVLImageProcessorPil(size=CROP)), (200, 100))
    close(boxes, [(0, -0.5, 1, 1.5)])
    rows, _ = lay_out_panels(
        grids_layout([(4, 4)]),
        [Image.new("RGB", (200, 100), "red")],
        alone(DeepseekVLImageProcessorPil()),
    )
    (panel,) = rows
    assert panel.image.size == (200, 200)
    assert panel.image.getpixel((100, 10)) != (255, 0, 0)
    assert panel.image.getpixel((100, 100)) == (255, 0, 0)
    assert painting.find_unseen(panel, (96, 96)) is None


def test_tiles_are_found_in_their_order():
    process = GotOcr2ImageProcessorPil(crop_to_patches=True, max_patches=6, size=CROP)
    boxes = find_seen_boxes(alone(process), (300, 200))
    grid = [(x / 3, y / 2, (x + 1) / 3, (y + 1) / 2) for y in range(2) for x in range(3)]
    close(boxes, [*grid, WHOLE])
    rows, notes = lay_out_panels(
        grids_layout([(2, 2)] * 7), [Image.new("RGB", (300, 200))], alone(process)
    )
    assert [(row.title, len(row.grids)) for row in rows] == [
        ("the image, 6 tiles", 6),
        ("the image, in one tile", 1),
    ]
    assert notes == []
    assert all(painting.find_unseen(row, (300, 200)) is None for row in rows)
    with pytest.raises(
        InputError, match="the prompt holds 6 images or tiles, and the 1 given make 7"
    ):
        lay_out_panels(grids_layout([(2, 2)] * 6), [Image.new("RGB", (300, 200))], alone(process))


def test_tiles_of_several_images_belong_to_their_own():
    process = alone(GotOcr2ImageProcessorPil(crop_to_patches=True, max_patches=2, size=CROP))
    images = [Image.new("RGB", (192, 96), "red"), Image.new("RGB", (96, 96), "blue")]
    rows, _ = lay_out_panels(grids_layout([(2, 2)] * 4), images, process)
    assert [(row.title, grid.image) for row in rows for grid in row.grids] == [
        ("image 1, 2 tiles", 0),
        ("image 1, 2 tiles", 1),
        ("image 1, in one tile", 2),
        ("image 2", 3),
    ]
    assert [row.image.getpixel((0, 0)) for row in rows] == [(255, 0, 0), (255, 0, 0), (0, 0, 255)]


def test_tiles_of_idefics():
    process = Idefics3ImageProcessorPil(
        size={"longest_edge": 192}, max_image_size={"longest_edge": 96}
    )
    boxes = find_seen_boxes(alone(process), (192, 96))
    close(boxes, [(0, 0, 0.5, 1), (0.5, 0, 1, 1), WHOLE])


def test_what_is_cut_off_is_struck_out():
    process = alone(CLIPImageProcessorPil(size={"shortest_edge": 96}, crop_size=CROP))
    (panel,), _ = lay_out_panels(
        grids_layout([(4, 4)]), [Image.new("RGB", (100, 300), "green")], process
    )
    hidden = painting.find_unseen(panel, (100, 300))
    painted = np.asarray(painting.paint_unseen(panel.image, hidden)).reshape(300, 100, 3)
    changed = (painted != np.asarray(panel.image)).any(axis=-1)
    assert changed[:98].all()
    assert changed[203:].all()
    assert not changed[102:198].any()


# ---- letters


@pytest.mark.parametrize(
    "text", ["Où, ça, Ærø, Łódź, naïve", "Ποῦ", "Где замок?", "城堡在哪里", "ねこカナ", "성은 어디"]
)
def test_letters_that_the_fonts_have(text):
    assert "".join(piece for _, piece in split_by_font(text)) == text
    assert "[U+" not in "".join(piece for _, piece in split_by_font(text))
    canvas = Image.new("RGB", (400, 40), "white")
    write(ImageDraw.Draw(canvas), (4, 4), text, 18, (0, 0, 0))
    shown = np.asarray(canvas).min(axis=(0, 2)) < 128
    assert np.flatnonzero(shown)[-1] == pytest.approx(4 + measure_width(text, 18), abs=8)


def test_letters_that_no_font_has_are_spelled_out():
    assert split_by_font("a \N{GRINNING FACE}!") == [(FONTS[0], "a [U+1F600]!")]
    family = "\N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{VARIATION SELECTOR-16}."
    assert split_by_font(family) == [(FONTS[0], "[U+1F468][U+1F469].")]
    assert find_font("\N{GRINNING FACE}") is None
    assert split_by_font("e\N{COMBINING ACUTE ACCENT}") == [(FONTS[0], "é")]


def test_fonts_change_within_a_line():
    assert [name for name, _ in split_by_font("cat 猫 ✔")] == [
        FONTS[0],
        FONTS[1],
        FONTS[0],
        FONTS[2],
    ]


def test_lines_break_at_words_and_within_long_ones():
    lines = wrap("one two " + "x" * 200 + " 城" * 3, 14, 200, most=20)
    assert lines[0] == "one two"
    assert "".join(lines).replace(" ", "") == "onetwo" + "x" * 200 + "城" * 3
    assert all(measure_width(line, 14) <= 200 for line in lines)
    short = wrap("word " * 200, 14, 200)
    assert len(short) == 6
    assert short[-1].endswith("\N{HORIZONTAL ELLIPSIS}")
    assert wrap("", 14, 200) == [""]
