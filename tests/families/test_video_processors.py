"""Transformers' own processors of videos: frames, their seconds, and the layout of the picture."""

import logging

import pytest
import torch
from PIL import Image

from sparsight import sparsify
from sparsight.errors import InputError
from sparsight.inputs import prompt_inputs, takes_videos, user_message
from sparsight.methods import Uniform
from sparsight.videos import Clip, Frame

pytest.importorskip("torchvision", reason="torchvision is not installed")

from tests.support import tiny_videos

# transformers' own, of GLM-4V's token ids
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
KINDS = list(tiny_videos.KINDS)
SECONDS = [0.5, 1.5, 2.5, 3.5]
PHOTO = Image.new("RGB", (40, 30), "red")
ONE_KIND = ("glm4v",)
EQUAL = ("video-llava", "llava-onevision", "llava-next-video")


@pytest.fixture(autouse=True)
def without_its_own_notice():
    """Video-LLaVA's image processor says of itself that the name of its pixels is deprecated."""
    logger = logging.getLogger("transformers.models.video_llava.image_processing_video_llava")
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(logging.NOTSET)


def clip(seconds=SECONDS):
    images = [Image.effect_noise((64, 48), 90).convert("RGB") for _ in seconds]
    rows = zip(seconds, images, strict=True)
    frames = tuple(Frame(10 * at, second, image) for at, (second, image) in enumerate(rows))
    return Clip("a.mp4", 40, 4.0, frames)


def answer(kind, shown):
    """Return inputs and the texts of the picture of a pruned prompt."""
    model, processor = tiny_videos.load(kind)
    assert takes_videos(processor)
    message = user_message("what moves ?", shown, as_videos=True)
    inputs = prompt_inputs(model, processor, [message])
    with sparsify(model, Uniform(retain=0.5)) as run, torch.inference_mode():
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
        run.picture(shown, processor=processor)
    return inputs, processor, run


@pytest.mark.parametrize("kind", KINDS)
def test_a_video(kind):
    _, _, run = answer(kind, [clip()])
    (layout,) = run.trace.layouts
    assert layout.image_count == 1
    frames = 4 if tiny_videos.KINDS[kind] == "plain" else 2  # neighbours are put together
    assert sorted({grid.frame for grid in layout.grids}) == list(range(frames))


@pytest.mark.parametrize("kind", KINDS)
def test_two_videos(kind):
    assert answer(kind, [clip(), clip()])[2].trace.layouts[0].image_count == 2


@pytest.mark.parametrize("kind", KINDS)
def test_videos_of_two_lengths(kind):
    shown = [clip(), clip(SECONDS[:2])]
    if kind in EQUAL:
        with pytest.raises(InputError, match="2 to 4 frames"):
            answer(kind, shown)
    else:
        assert answer(kind, shown)[2].trace.layouts[0].image_count == 2


@pytest.mark.parametrize("shown", [[PHOTO, clip()], [clip(), PHOTO]], ids=["behind", "before"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_video_and_an_image(kind, shown):
    if kind in ONE_KIND:
        with pytest.raises(InputError, match="images or videos, but not both"):
            answer(kind, shown)
    else:
        assert answer(kind, shown)[2].trace.layouts[0] is not None


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_told_the_seconds_of_each(kind):
    model, processor = tiny_videos.load(kind)
    rows = [clip(), clip([0.0, 2.0, 4.0, 6.0])]
    together = [[user_message("what moves ?", [one], as_videos=True)] for one in rows]
    inputs = prompt_inputs(model, processor, together, {"padding": True, "padding_side": "left"})
    for row, one in enumerate(rows):
        message = user_message("what moves ?", [one], as_videos=True)
        alone = prompt_inputs(model, processor, [message])["input_ids"][0]
        assert inputs["input_ids"][row, -len(alone) :].tolist() == alone.tolist()


def test_seconds_between_frames():
    inputs, _, _ = answer("qwen25", [clip()])
    assert inputs["second_per_grid_ts"].tolist() == [2.0]  # four frames, four seconds, in pairs
    assert inputs["second_per_grid_ts"].dtype == torch.float32


@pytest.mark.parametrize(
    ("kind", "written"), [("qwen3", ["<1.0seconds>", "<3.0seconds>"]), ("glm4v", ["0", "2"])]
)
def test_seconds_in_the_prompt(kind, written):
    inputs, processor, _ = answer(kind, [clip()])
    text = processor.tokenizer.decode(inputs["input_ids"][0])
    for mark in processor.tokenizer.all_special_tokens:
        text = text.replace(mark, ";")
    assert [part for part in text.replace(" ", "").split(";") if part][:2] == written
