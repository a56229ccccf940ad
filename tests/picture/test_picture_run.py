"""The picture of a run: its words, samples, clips, smaller images, refusals, command line."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from sparsight import sparsify
from sparsight.cli import app
from sparsight.counts.layout import Block, layout_of
from sparsight.errors import AttachError, InputError, UnsupportedError
from sparsight.families import LLAVA
from sparsight.methods import Downscale, Pool, Restore, SparseVLM, Uniform
from sparsight.picture import lay_out_panels, sheet
from sparsight.picture.finished import describe_method
from sparsight.picture.frames import make_clip
from sparsight.videos import choose_middles
from tests.support import tiny, tiny_processor, tiny_rotary
from tests.support.tiny_families import family_batch, tiny_family


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
    made = run.picture(
        [photo], "what colour?", {"dense": "blue", "sparse": ""}, tiny_processor.processor()
    )
    assert made.mode == "RGB"
    text = "\n".join(written)
    for part in (
        "what colour?",
        "dense",
        "blue",
        "sparse",
        "(nothing)",
        "LlavaForConditionalGeneration",
    ):
        assert part in text
    assert "SparseVLM(retain=9, tau=0.5): 9 of 36 visual tokens enter a layer on average" in text
    assert f"before layer {run.trace.samples[0][0].site}" in text
    assert "not seen: cut off by the image processor" in text
    assert "of 36" in text


def test_settings_that_are_their_defaults_are_left_out():
    assert describe_method(Uniform(retain=64)) == "Uniform(retain=64)"
    assert describe_method(Pool()) == f"Pool(retain={1 / 3!r})"
    paper = describe_method(SparseVLM.paper(64))
    assert paper.startswith("SparseVLM(retain=64, sites=(3, 7, 16), positions='renumber'")
    assert "kept=(66, 30, 17)" in paper
    assert "tau" not in paper
    built = describe_method(Restore(retain=64, base=SparseVLM(recycle=False)))
    assert built == "Restore(retain=64, base=SparseVLM(retain=64, recycle=False))"


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
    assert (
        180 + 100 <= orange <= 180 + 125
    )  # half of 360 px, and half of a panel of 4 / 6 of its side


def test_a_picture_of_each_sample():
    batch = tiny.batch([["image", 5], [2, "image", 2, "image", 6], [9]], dtype=torch.float32)
    run, photo = llava_run(Uniform(retain=0.5), batch.inputs), Image.new("RGB", (24, 24))
    first = run.picture([photo])
    assert run.picture([photo, photo], sample=1).height > first.height + 300
    with pytest.raises(
        InputError, match="the prompt holds 2 images or tiles, and the 1 given make 1"
    ):
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


@pytest.mark.parametrize(
    ("name", "words"), [("aria", "learned queries"), ("video-llama3", "is not known")]
)
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
    assert {"the image, overview", "the image, fine grid", "4 x 4: 16 visual tokens"} <= set(
        written
    )
    assert (
        "0 of 4 visual tokens that are no patch, such as row ends, are left and not drawn."
        in written
    )


# ---- clips


def test_clips_are_drawn_as_frames(written):
    model = tiny_rotary.model("qwen2")
    inputs = tiny_rotary.batch(
        "qwen2", [[("video", 3, 2, 4), ("image", 2, 2), 6]], model.dtype
    ).inputs
    with sparsify(model, Uniform(retain=0.5)) as run, torch.no_grad():
        model(**inputs)
    frames = [
        Image.new("RGB", (64, 32), colour)
        for colour in ("red", "red", "green", "green", "blue", "blue")
    ]
    made = np.asarray(run.picture([frames, Image.new("RGB", (16, 16), "orange")]))
    assert [line for line in written if "frame " in line] == [
        f"clip 1, frame {i} of 3" for i in (1, 2, 3)
    ]
    assert "image 2" in written
    assert any("6 frames for 3 grids" in line for line in written)
    rows = [
        int(np.flatnonzero((made == colour).all(axis=-1).any(axis=1))[0])
        for colour in ((255, 0, 0), (0, 128, 0))
    ]
    assert rows[0] < rows[1]
    with pytest.raises(InputError, match="image 1 is a clip in the prompt"):
        run.picture([frames[0], frames[1]])
    with pytest.raises(InputError, match="clip 1 has no frames"):
        run.picture([[], frames[1]])


def test_long_clips_are_thinned_out_and_say_so():
    layout = layout_of(tuple(Block(2, 2, frame=frame) for frame in range(40)))
    rows, notes = lay_out_panels(layout, [make_clip([Image.new("RGB", (8, 8))] * 40)])
    assert [row.grids[0].frame for row in rows] == choose_middles(40, 16)
    assert "16 of 40 frames of the clip are drawn." in notes


# ---- command line


@pytest.fixture
def ask(tmp_path):
    """Ask about a tall photograph; return exit code, errors and the picture's path."""
    photo, target = tmp_path / "tall.png", tmp_path / "kept.png"
    Image.linear_gradient("L").convert("RGB").resize((40, 120)).save(photo)
    words = [
        "ask",
        photo,
        "was ist das für ein Schloss, 城堡?",
        "--model",
        tiny_processor.save(tmp_path / "model"),
    ]
    words += ["--retain", "9", "--picture", target, "--runs", "1", "--max-new-tokens", "2"]

    def ask_more(*more):
        return CliRunner().invoke(app, [str(word) for word in (*words, *more)]), target

    return ask_more


def test_the_command_draws_what_the_run_draws(ask, written):
    result, target = ask("--method", "uniform")
    assert result.exit_code == 0, result.output
    text = "\n".join(written)
    for part in (
        "Schloss, 城堡?",
        "dense, 36 visual tokens",
        "sparse, 9 on average",
        "Uniform(retain=9)",
    ):
        assert part in text
    assert "not seen: cut off by the image processor" in text
    with Image.open(target) as made:
        assert made.format == "PNG"


@pytest.mark.parametrize("layouts", [None, lambda *_: (layout_of((Block(0, 0, before=36),)),)])
def test_the_command_refuses_a_picture_before_the_model_runs(ask, monkeypatch, layouts):
    monkeypatch.setattr(
        "sparsight.families.families", lambda: (dataclasses.replace(LLAVA, layouts=layouts),)
    )
    monkeypatch.setattr("sparsight.cli.ask.answer_sparse", None)
    result, target = ask()
    assert result.exit_code == 2
    assert "error: no picture can be drawn" in result.stderr
    assert not target.exists()
