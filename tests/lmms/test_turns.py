"""Messages of lmms-eval: images, videos, texts, and what would be lost."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from sparsight.errors import InputError, UnsupportedError
from sparsight.lmms.turns import holds_video, read_turns
from tests.support import lmms, tiny_processor

PLAIN = tiny_processor.processor()
WATCHES = SimpleNamespace(video_processor=object(), image_token="<image>")  # noqa: S106


def read(messages, processor=PLAIN):
    return read_turns(lmms.ChatMessages(messages).to_hf_messages(), processor)


def test_images_are_rgb_and_in_order(tmp_path):
    gray = Image.linear_gradient("L").resize((8, 6))
    file = tmp_path / "a.png"
    lmms.picture().save(file)
    turns = read(lmms.messages("what ?", gray, str(file)))
    kinds = [part["type"] for part in turns[0]["content"]]
    assert kinds == ["image", "image", "text"]
    images = [part["image"] for part in turns[0]["content"][:2]]
    assert [image.mode for image in images] == ["RGB", "RGB"]
    assert [image.size for image in images] == [(8, 6), (40, 30)]


def test_several_turns_keep_their_roles():
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "be short"}]},
        *lmms.messages("what ?", lmms.picture()),
        {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
        *lmms.messages("what ?"),
    ]
    turns = read(messages)
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[2]["content"] == [{"type": "text", "text": "red"}]


def test_an_empty_text_is_no_question_to_refuse():
    assert read(lmms.messages("", lmms.picture()))[0]["content"][1]["text"] == ""


def test_a_placeholder_in_a_text_is_refused():
    with pytest.raises(InputError, match="<image>"):
        read(lmms.messages("<image> what ?", lmms.picture()))


def test_what_is_no_image_is_refused(tmp_path):
    with pytest.raises(InputError, match="image 2"):
        read(lmms.messages("what ?", lmms.picture(), 3))
    with pytest.raises(InputError, match="no such file"):
        read(lmms.messages("what ?", str(tmp_path / "a.png")))
    with pytest.raises(InputError, match="fetches nothing"):
        read(lmms.messages("what ?", "https://example.org/a.png"))


def test_a_video_is_a_path(tmp_path):
    film = tmp_path / "a.mp4"
    film.write_bytes(b"film")
    turns = read(lmms.messages("what ?", str(film), kind="video"), WATCHES)
    assert turns[0]["content"][0] == {"type": "video", "video": str(film)}
    assert holds_video(turns)
    assert not holds_video(read(lmms.messages("what ?", lmms.picture())))


def test_a_video_for_a_model_without_videos_is_refused():
    with pytest.raises(UnsupportedError, match="LlavaProcessor takes none"):
        read(lmms.messages("what ?", "a.mp4", kind="video"))


@pytest.mark.parametrize("where", ["a.mp4", "https://example.org/a.mp4", "file:///a.mp4"])
def test_a_video_that_is_no_file_is_refused(where):
    with pytest.raises(InputError, match="no video file here"):
        read(lmms.messages("what ?", where, kind="video"), WATCHES)


def test_frames_in_memory_are_refused():
    with pytest.raises(UnsupportedError, match="of type ndarray"):
        read(lmms.messages("what ?", np.zeros((2, 4, 4, 3)), kind="video"), WATCHES)


def test_a_cut_of_a_video_is_refused(tmp_path):
    film = tmp_path / "a.mp4"
    film.write_bytes(b"film")
    messages = lmms.messages("what ?", str(film), kind="video")
    messages[0]["content"][0]["video_start"] = 2.0
    with pytest.raises(UnsupportedError, match="video_start"):
        read(messages, WATCHES)


def test_sound_is_refused():
    with pytest.raises(UnsupportedError, match="holds audio"):
        read(lmms.messages("what ?", "a.wav", kind="audio"))
