"""Writes prompts as the authors do: LLaVA-1.5's words, images padded to a square.

Source: LLaVA release 1.5 (conversation vicuna_v1, expand2square) and Video-LLaVA (conversation
    llava_v1, which says human in place of user).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from sparsight.evaluate.tasks.task import Item
from sparsight.images import read_image
from sparsight.inputs import Messages, Shown, render, takes_videos, user_message
from sparsight.videos import choose_with_ends, read_clip

ASSISTANT = "The assistant gives helpful, detailed, and polite answers to the"
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    f"{ASSISTANT} user's questions."
)
SYSTEM_VIDEO = (
    "A chat between a curious human and an artificial intelligence assistant. "
    f"{ASSISTANT} human's questions."
)
SHOWN = re.compile(r"(?:<(?:image|video)>\n?)+")
PROBE = "What is this?\nAnswer the question using a single word or phrase."


@dataclass(frozen=True)
class Wording:
    """How the prompts of one kind of benchmark are written.

    Args:
        system: sentence of the conversation's system; None for the model's own prompt.
        as_video: whether frames are given as one video, and not as images.
    """

    system: str | None
    as_video: bool = False

    @property
    def name(self) -> str:
        """Name of the prompt in results."""
        return "the model's own" if self.system is None else "LLaVA-1.5's"


def find_wording(processor: Any, *, video: bool) -> Wording:
    """Return how prompts are written: in the words of LLaVA-1.5 where the chat template gives them.

    Args:
        processor: of the model, with a chat template.
        video: whether frames are shown.
    """
    as_video = video and takes_videos(processor)
    system = SYSTEM_VIDEO if video else SYSTEM
    kind = "video" if as_video else "image"
    messages: Messages = [
        _system_message(system),
        {"role": "user", "content": [{"type": kind}, {"type": "text", "text": PROBE}]},
    ]
    expected = f"{system} USER: <visual>\n{PROBE} ASSISTANT:"
    try:
        written = render(processor, messages)
    except Exception:  # a template may raise anything on a system's turn
        written = ""
    start = getattr(getattr(processor, "tokenizer", None), "bos_token", None) or ""
    plain = SHOWN.sub("<visual>\n", written.removeprefix(start))
    return Wording(system if plain == expected else None, as_video)


def _system_message(system: str) -> dict[str, Any]:
    return {"role": "system", "content": [{"type": "text", "text": system}]}


def write_messages(item: Item, shown: Sequence[Shown], wording: Wording) -> Messages:
    """Return the conversation of one question.

    Args:
        item: the question.
        shown: its images, or its video.
        wording: of the prompt.
    """
    turn = user_message(item.text, shown, as_videos=wording.as_video)
    return [turn] if wording.system is None else [_system_message(wording.system), turn]


def find_padding(processor: Any) -> tuple[int, int, int] | None:
    """Return the colour that images are padded with; None where nothing is padded.

    A processor that crops to a square loses the edges of other images. LLaVA-1.5's authors pad to a
    square first, with the mean colour of the encoder.
    """
    images = getattr(processor, "image_processor", None)
    size: Any = getattr(images, "crop_size", None)
    mean: Any = getattr(images, "image_mean", None)
    if not getattr(images, "do_center_crop", False) or size is None or mean is None:
        return None
    if size["height"] != size["width"]:
        return None
    red, green, blue = mean[:3]
    return int(red * 255), int(green * 255), int(blue * 255)


def pad_to_square(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Return an RGB image in the middle of a square of one colour; a square stays as it is."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def show(item: Item, frames: int, colour: tuple[int, int, int] | None) -> list[Shown]:
    """Return what a question shows: its images, padded, or frames of its video, as they are.

    Args:
        item: the question.
        frames: to take of a video.
        colour: of the padding; None pads nothing.

    Raises: InputError: an image or a video cannot be read.
    """
    if item.video is not None:
        return [read_clip(item.video, frames, choose_with_ends)]
    images = [read_image(source) for source in item.images]
    return [*images] if colour is None else [pad_to_square(image, colour) for image in images]
