"""Makes the turns of a question what chat templates take; refuses what would be lost on the way."""

from pathlib import Path
from typing import Any

from sparsight.errors import InputError, UnsupportedError
from sparsight.images import SCHEME, rgb_image
from sparsight.inputs import Messages, check_question, takes_videos


def read_turns(messages: Messages, processor: Any) -> Messages:
    """Return turns with their images in RGB, and videos as paths of files.

    Args:
        messages: of lmms-eval's `ChatMessages.to_hf_messages()`.
        processor: of the model.

    Raises:
        InputError: a text holds the placeholder of an image, an image cannot be read, or a video
            is no file here.
        UnsupportedError: there is sound, a cut of a video, or a video for a model that takes none.
    """
    turns: Messages = []
    count = 0
    for message in messages:
        content = []
        for part in message["content"]:
            count += part["type"] == "image"
            content.append(_read_part(part, processor, count))
        turns.append({"role": message["role"], "content": content})
    return turns


def holds_video(messages: Messages) -> bool:
    """Return whether a conversation shows a video."""
    return any(part["type"] == "video" for turn in messages for part in turn["content"])


def _read_part(part: dict[str, Any], processor: Any, number: int) -> dict[str, Any]:
    """Return a part of a turn; `number` counts the images up to it."""
    kind = part["type"]
    if kind == "text":
        if part["text"].strip():
            check_question(part["text"], processor)
        return {"type": "text", "text": part["text"]}
    if kind == "image":
        return {"type": "image", "image": rgb_image(part["image"], f"image {number}")}
    if kind == "video":
        return {"type": "video", "video": _read_video(part, processor)}
    raise UnsupportedError(
        f"the question holds {kind}, but --model sparsight takes text, images and videos; "
        "choose another task."
    )


def _read_video(part: dict[str, Any], processor: Any) -> str:
    """Return the path of a video."""
    if not takes_videos(processor):
        raise UnsupportedError(
            f"the question shows a video, but {type(processor).__name__} takes none; "
            "choose another model or task."
        )
    bounds = sorted({"video_start", "video_end"} & set(part))
    if bounds:
        raise UnsupportedError(
            f"the question shows a cut of a video ({', '.join(bounds)}), and --model sparsight "
            "shows whole ones; cut the file before."
        )
    video = part["video"]
    if not isinstance(video, str):
        raise UnsupportedError(
            f"the question shows a video of type {type(video).__name__}; --model sparsight takes "
            "paths of files."
        )
    if SCHEME.match(video) or not Path(video).is_file():
        raise InputError(f"{video} is no video file here; sparsight fetches nothing.")
    return video
