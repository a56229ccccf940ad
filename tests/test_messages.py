"""Turns with images and videos, and what processors are told of the times of frames."""

import numpy as np
import pytest
import torch
from PIL import Image

from sparsight import Chat, sparsify
from sparsight.errors import InputError
from sparsight.families import family_named
from sparsight.inputs import prompt_inputs, read_shown, takes_videos, user_message
from sparsight.messages import check_mixture, describe_times, list_parts, video_settings
from sparsight.methods import Uniform
from sparsight.videos import Clip, Frame
from tests.evaluate.test_evaluate import TURNS
from tests.support import tiny, tiny_processor, tiny_watcher

PHOTO = Image.new("RGB", (8, 8), "red")
SECONDS = (0.0, 0.25, 7.1)  # of a changing frame rate


def clip(seconds=SECONDS, length=8.0):
    frames = (Frame(10 * at, second, PHOTO) for at, second in enumerate(seconds))
    return Clip("a.mp4", 30, length, tuple(frames))


def test_a_clip_is_a_video_or_its_frames():
    shown = [PHOTO, clip()]
    kinds = [part["type"] for part in user_message("why ?", shown, as_videos=True)["content"]]
    assert kinds == ["image", "video", "text"]
    kinds = [part["type"] for part in user_message("why ?", shown)["content"]]
    assert kinds == ["image"] * 4 + ["text"]


def test_the_processor_decides():
    assert not takes_videos(tiny_processor.processor())
    assert takes_videos(tiny_watcher.Processor())


def test_a_processor_finds_the_second_of_each_frame():
    metadata = pytest.importorskip("transformers.video_utils").VideoMetadata
    told = metadata(**describe_times(clip()))
    assert told.timestamps == pytest.approx(SECONDS)
    assert told.sampled_fps == pytest.approx(3 / 8)
    assert told.duration == 8
    untold = metadata(**describe_times(clip((None,) * 3, None)))
    assert untold.fps is None


def test_settings_stand_for_the_videos_of_a_batch():
    rows = [[user_message("why ?", [one, PHOTO], as_videos=True)] for one in (clip(), clip())]
    parts = [part for row in rows for part in list_parts(row)]
    assert video_settings(parts) == {
        "do_sample_frames": False,
        "video_metadata": [describe_times(clip())] * 2,
    }
    assert video_settings(list_parts([user_message("why ?", [clip()])])) == {}


def test_what_is_shown_is_read():
    one = clip()
    assert read_shown(one) == [one]
    read = read_shown([one, np.zeros((4, 4)), PHOTO])
    assert [type(shown) for shown in read] == [Clip, Image.Image, Image.Image]
    with pytest.raises(InputError, match="image 2 is of type int"):
        read_shown([one, 3])


def test_some_models_take_one_kind_alone():
    parts = list_parts([user_message("why ?", [PHOTO, clip()], as_videos=True)])
    check_mixture(family_named("Qwen2VLForConditionalGeneration"), parts)
    glm = family_named("Glm4vForConditionalGeneration")
    check_mixture(glm, parts[:1])
    check_mixture(glm, parts[1:])
    with pytest.raises(InputError, match="glm4v take images or videos, but not both"):
        check_mixture(glm, parts)


def test_a_template_that_loses_a_video_is_refused():
    processor = tiny_watcher.Processor()
    processor.write = lambda messages: "<image> why ?"
    message = user_message("why ?", [PHOTO, clip()], as_videos=True)
    with pytest.raises(InputError, match="a place for 0 of 1 videos"):
        prompt_inputs(tiny.tiny_llava(), processor, [message])


def test_a_video_without_a_template_is_refused():
    processor = tiny_processor.processor(template=None)
    message = user_message("why ?", [clip()], as_videos=True)
    with pytest.raises(InputError, match="no chat template; a video needs one"):
        prompt_inputs(tiny.tiny_llava(), processor, [message])


@pytest.mark.parametrize("history", [True, False])
def test_a_chat_about_a_video(history):
    model, processor = tiny_watcher.load()
    with sparsify(model, Uniform(retain=0.5)) as run:
        chat = Chat(model, processor, history=history, max_new_tokens=2, do_sample=False)
        for question in ("what moves ?", "w30 w31 ?"):
            chat.ask(question, clip() if not chat.messages else ())
            assert run.stats.visual_tokens == (3 * (tiny_watcher.TOKENS + 1),)
    assert len(processor.videos) == 1


def test_a_chat_about_frames():
    model = tiny.tiny_llava()
    with sparsify(model, Uniform(retain=9)) as run, torch.no_grad():
        chat = Chat(model, tiny_processor.processor(TURNS), max_new_tokens=2, do_sample=False)
        chat.ask("what moves ?", [PHOTO, clip()])
    assert run.stats.visual_tokens == (4 * 36,)
