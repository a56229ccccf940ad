"""Writes turns as chat templates take them: images and videos first, then the question.

A model whose processor takes videos gets a video as one; any other model gets its frames as images.

Private details of transformers touched here: `video_processor` of processors, and that processors
take `do_sample_frames` and `video_metadata`. Of the latter, Qwen2.5-VL reads how many seconds lie
between frames, and Qwen3-VL and GLM-4V write the second of each frame into the prompt. A processor
assumes 24 frames a second where it is told nothing.
"""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from sparsight.errors import InputError
from sparsight.families import Family
from sparsight.images import list_images, rgb_image
from sparsight.videos import Clip

Messages = list[dict[str, Any]]
Shown = Image.Image | Clip

TICKS = 1000  # a second; the clock on which a processor is told the times of frames
TIMES = "times"  # key of a video's part, beside those that chat templates know


def takes_videos(processor: Any) -> bool:
    """Return whether a model's processor takes videos as such, so that none is shown as images."""
    return getattr(processor, "video_processor", None) is not None


def read_shown(images: Any) -> list[Shown]:
    """Return one image or clip, or several, as a list with images in RGB.

    Args: images: each a clip, or an image as `sparsight.images.rgb_images` takes it.

    Raises: InputError: one is neither, or cannot be read.
    """
    listed = [images] if isinstance(images, Clip) else list_images(images)
    return [
        image if isinstance(image, Clip) else rgb_image(image, f"image {number}")
        for number, image in enumerate(listed, 1)
    ]


def user_message(
    question: str, shown: Sequence[Shown], *, as_videos: bool = False
) -> dict[str, Any]:
    """Return a user's turn as chat templates take it: images and videos, then the question.

    Args:
        question: text.
        shown: images in RGB and clips, in order.
        as_videos: whether a clip is one video, and not an image for each of its frames.
    """
    content: list[dict[str, Any]] = []
    for one in shown:
        if not isinstance(one, Clip):
            content.append({"type": "image", "image": one})
        elif as_videos:
            content.append({"type": "video", "video": one.images, TIMES: describe_times(one)})
        else:
            content += [{"type": "image", "image": image} for image in one.images]
    content.append({"type": "text", "text": question})
    return {"role": "user", "content": content}


def describe_times(clip: Clip) -> dict[str, Any]:
    """Return what a processor is told of a clip, as transformers' `VideoMetadata` takes it.

    Frames are counted on a clock of `TICKS` a second, so that a processor finds the second of each
    at any frame rate, a changing one included. A clip that does not know its times has none here.
    """
    if clip.seconds is None:
        return {"total_num_frames": clip.total, "frames_indices": [f.index for f in clip.frames]}
    return {
        "total_num_frames": max(1, round(clip.seconds * TICKS)),
        "fps": float(TICKS),
        "duration": clip.seconds,
        "frames_indices": [round((frame.second or 0.0) * TICKS) for frame in clip.frames],
    }


def list_parts(messages: Messages) -> list[dict[str, Any]]:
    """Return the images and videos of a conversation, in order."""
    return [
        part
        for message in messages
        for part in message["content"]
        if isinstance(part, dict) and part.get("type") in ("image", "video")
    ]


def video_settings(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the processor's settings for the videos of a batch, whose frames are chosen already.

    Args: parts: images and videos of all conversations, in order.
    Returns: {} where no clip of `user_message` is among them.
    """
    times = [part[TIMES] for part in parts if part["type"] == "video" and TIMES in part]
    return {"do_sample_frames": False, "video_metadata": times} if times else {}


def check_mixture(family: Family, parts: Sequence[dict[str, Any]]) -> None:
    """Check that a model takes the images and videos of a batch in one call.

    Raises: InputError: there are both, and the model takes one kind alone.
    """
    if not family.mixed and len({part["type"] for part in parts}) > 1:
        raise InputError(
            f"models of the family {family.name} take images or videos, but not both in one call; "
            "ask about each alone."
        )


def hint_at_frames(parts: Sequence[dict[str, Any]]) -> str:
    """Return what an error may come from if videos have different numbers of frames, else ""."""
    videos = [part["video"] for part in parts if part["type"] == "video"]
    counts = {len(video) for video in videos if isinstance(video, list)}
    if len(counts) < 2:
        return ""
    return (
        f" The videos have {min(counts)} to {max(counts)} frames, and many models take only videos "
        f"of the same length: show {min(counts)} of each, or ask about each alone."
    )
