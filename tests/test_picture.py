"""The picture shows what the trace says, on any image, token by token, and in words."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from sparsight import sparsify
from sparsight.errors import AttachError, InputError, UnsupportedError
from sparsight.layout import Block, grids_layout, layout_of
from sparsight.methods import Downscale, Pool, SparseVLM, Uniform
from sparsight.picture import Panel, Words, draw, panels, sheet
from sparsight.picture import paint as painting
from sparsight.picture.finished import settings
from sparsight.picture.paint import DARK, FRAME, LIGHT
from sparsight.picture.seen import WHOLE
from sparsight.trace import SiteTrace
from tests import tiny, tiny_processor, tiny_rotary
from tests.tiny_families import family_batch, tiny_family

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


@pytest.fixture
def written(monkeypatch):
    """Every line that is written on a picture."""
    lines = []
    plain = sheet.write

    def note(pen, place, text, *args):
        lines.append(text)
        plain(pen, place, text, *args)

    monkeypatch.setattr(sheet, "write", note)
    return lines


# ---- on any image -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGES)
def test_each_token_is_painted_as_the_trace_says(name):
    source = IMAGES[name]
    places = painting.cells(panel(source), SIZE)
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
    places = painting.cells(panel(IMAGES[name]), SIZE)
    one, other = (
        np.asarray(painting.paint(IMAGES[name], site(keep=keep, centres=(), pool=()), places, None)).astype(int)
        for keep in ((0, 1), (0, 2))
    )
    far = abs(one - other).max(axis=-1) > 60
    assert far[:CELL, CELL : 3 * CELL].sum() >= 2 * CELL


def test_the_outline_is_that_of_the_union():
    places = painting.cells(panel(IMAGES["black"]), SIZE)
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
    wide, high = sheet._size(panel(Image.new("RGB", size)), 1)
    assert wide / high == pytest.approx(size[0] / size[1], rel=0.05)
    assert 2e4 < wide * high < 6e5


def test_clusters_are_parted_by_lines():
    names, labels = torch.tensor([4, 5, 6, 7]), torch.tensor([0, 0, 0, 1])
    trace = SiteTrace(0, torch.arange(16), names[:0], names[:1], names, labels, None)
    painted = painting.paint(IMAGES["black"], trace, painting.cells(panel(IMAGES["black"]), SIZE), None)
    tint = cell(painted, 5)[5, 5]
    assert (cell(painted, 5)[5, -1] == tint).all(), "no line within a cluster"
    for line in (cell(painted, 6)[5, -1], cell(painted, 7)[5, 0], cell(painted, 6)[0, 5]):
        assert line.min() > tint.min() + 60


# ---- in a run -----------------------------------------------------------------------------------------------------


def pixels_of(image):
    return tiny_processor.processor()(images=[image], text="<image> what ?", return_tensors="pt")


def llava_run(method, inputs):
    model = tiny.tiny_llava(dtype=torch.float32)
    with sparsify(model, method) as run, torch.no_grad():
        model(**inputs)
    return run


def test_a_picture_says_method_budget_model_question_and_answers(written):
    photo = Image.linear_gradient("L").convert("RGB").resize((60, 40))
    run = llava_run(SparseVLM(retain=9, tau=0.5), pixels_of(photo))
    made = run.picture([photo], "what colour?", {"dense": "blue", "sparse": ""}, tiny_processor.processor())
    assert made.mode == "RGB"
    text = "\n".join(written)
    for part in ("what colour?", "dense", "blue", "sparse", "(nothing)", "LlavaForConditionalGeneration"):
        assert part in text
    assert "SparseVLM(retain=9, tau=0.5): 9 of 36 visual tokens enter a layer on average" in text
    assert f"before layer {run.trace.samples[0][0].site}" in text
    assert "not seen: cut off by the image processor" in text
    assert "of 36" in text


def test_settings_that_are_their_defaults_are_left_out():
    assert settings(Uniform(retain=64)) == "Uniform(retain=64)"
    assert settings(Pool()) == f"Pool(retain={1 / 3!r})"
    paper = settings(SparseVLM.paper(64))
    assert paper.startswith("SparseVLM(retain=64, sites=(3, 7, 16), positions='renumber'")
    assert "kept=(66, 30, 17)" in paper
    assert "tau" not in paper


def test_without_a_processor_the_picture_says_what_it_supposes(written):
    photo = Image.new("RGB", (24, 24))
    run = llava_run(Uniform(retain=9), pixels_of(photo))
    run.picture([photo])
    assert any("No processor was given" in line for line in written)
    written.clear()
    run.picture([photo], processor=tiny_processor.processor())
    assert not any("processor" in line for line in written)


def test_a_smaller_image_is_drawn_as_such(written):
    photo = Image.new("RGB", (48, 48), "teal")
    ImageDraw.Draw(photo).rectangle((0, 0, 23, 47), fill="orange")
    run = llava_run(Downscale(retain=16), pixels_of(photo))
    made = run.picture([photo], processor=tiny_processor.processor())
    assert "scaled to 4 x 4" in written
    assert "16 visual tokens of 36" in written
    assert not any(line.startswith("kept: outlined") for line in written)
    row = np.asarray(made)[made.height // 2 - 60]
    orange = (abs(row.astype(int) - (255, 165, 0)).max(axis=-1) < 40).sum()
    assert 180 + 100 <= orange <= 180 + 125  # half of 360 px, and half of a panel of 4 / 6 of its side


def test_a_picture_of_each_sample():
    batch = tiny.batch([["image", 5], [2, "image", 2, "image", 6], [9]], dtype=torch.float32)
    run, photo = llava_run(Uniform(retain=0.5), batch.inputs), Image.new("RGB", (24, 24))
    first = run.picture([photo])
    assert run.picture([photo, photo], sample=1).height > first.height + 300
    with pytest.raises(InputError, match="the prompt holds 2 images or tiles, and the 1 given make 1"):
        run.picture([photo], sample=1)
    with pytest.raises(InputError, match="sample=2 has no image"):
        run.picture([], sample=2)
    with pytest.raises(InputError, match="sample=3: the last prefill had 3 samples"):
        run.picture([photo], sample=3)


def test_a_run_that_saw_nothing_yet_has_no_picture():
    with (
        sparsify(tiny.tiny_llava(), Uniform(retain=9)) as run,
        pytest.raises(AttachError, match="no prompt with an image"),
    ):
        run.picture([Image.new("RGB", (24, 24))])


@pytest.mark.parametrize(("name", "words"), [("aria", "learned queries"), ("video-llama3", "is not known")])
def test_models_without_grids_are_refused_by_name(name, words):
    model = tiny_family(name)
    with sparsify(model, SparseVLM(retain=0.5)) as run, torch.no_grad():
        model(**family_batch(model, name, [["image", 5]]).inputs)
    with pytest.raises(UnsupportedError, match=f"(?s)no picture can be drawn.*{words}"):
        run.picture([Image.new("RGB", (32, 32))])


def test_row_ends_are_counted_in_words(written):
    model = tiny_family("llava-next")
    with sparsify(model, Uniform(retain=0.5)) as run, torch.no_grad():
        model(**family_batch(model, "llava-next", [["image", 5]]).inputs)
    run.picture([Image.new("RGB", (32, 16))])
    assert {"the image, overview", "the image, fine grid", "4 x 4: 16 visual tokens"} <= set(written)
    assert "0 of 4 visual tokens that are no patch, such as row ends, are left and not drawn." in written


# ---- clips --------------------------------------------------------------------------------------------------------


def test_clips_are_drawn_as_frames(written):
    model = tiny_rotary.model("qwen2")
    inputs = tiny_rotary.batch("qwen2", [[("video", 3, 2, 4), ("image", 2, 2), 6]], model.dtype).inputs
    with sparsify(model, Uniform(retain=0.5)) as run, torch.no_grad():
        model(**inputs)
    frames = [Image.new("RGB", (64, 32), colour) for colour in ("red", "red", "green", "green", "blue", "blue")]
    made = np.asarray(run.picture([frames, Image.new("RGB", (16, 16), "orange")]))
    assert [line for line in written if "frame " in line] == [f"clip 1, frame {i} of 3" for i in (1, 2, 3)]
    assert "image 2" in written
    assert any("6 frames for 3 grids" in line for line in written)
    rows = [int(np.flatnonzero((made == colour).all(axis=-1).any(axis=1))[0]) for colour in ((255, 0, 0), (0, 128, 0))]
    assert rows[0] < rows[1]
    with pytest.raises(InputError, match="image 1 is a clip in the prompt"):
        run.picture([frames[0], frames[1]])
    with pytest.raises(InputError, match="clip 1 has no frames"):
        run.picture([[], frames[1]])


def test_long_clips_are_thinned_out_and_say_so():
    layout = layout_of(tuple(Block(2, 2, frame=frame) for frame in range(40)))
    rows, notes = panels(layout, [[Image.new("RGB", (8, 8))] * 40])
    assert [row.grids[0].frame for row in rows] == [2, 7, 12, 17, 22, 27, 32, 37]
    assert "8 of 40 frames of the clip are drawn." in notes
