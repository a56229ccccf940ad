"""Reads images and builds prompts: the one way for `Chat`, `sparsight ask` and `sparsight eval`.

The images of a user's turn always come first, then its question: pruning needs text behind the images to rate them.
"""

import base64
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from sparsight.errors import InputError
from sparsight.families import family_of
from sparsight.pixels import BROKEN_FILE, to_rgb
from sparsight.sparsify import unwrapped

MOST_PIXELS = 50_000_000
SHOWN = 40  # characters of an embedded image that an error or a result names
SCHEME = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9+.-]+):/")  # two letters or more: C:/ is a drive
DATA = re.compile(r"data:(?P<kind>[^;,]*)(?P<rest>[^,]*),", re.IGNORECASE)
PLACES = ("image_token", "boi_token", "video_token", "fake_image_token")  # a processor's words for an image's place

Source = str | os.PathLike[str]
Messages = list[dict[str, Any]]


def read_image(source: Source) -> Image.Image:
    """Read an image file, upright and in RGB; `sparsight.pixels` says how.

    Args: source: a path, `~` allowed; a file:// URL; or a data: URL with the image in base64.
    Raises: InputError: another URL, missing, no image, broken, or of more than 50 million pixels.
    """
    text, name = os.fspath(source), source_name(source)
    if DATA.match(text):
        return _open(io.BytesIO(_decoded(text, name)), name)
    path = _path(text)
    try:
        path.stat()
    except FileNotFoundError:
        raise InputError(f"{name}: no such file.") from None
    except (OSError, ValueError) as error:  # a name that is too long or holds a null byte, or a closed folder
        raise InputError(f"{name[:SHOWN]}: cannot be looked up: {getattr(error, 'strerror', None) or error}.") from None
    if path.is_dir():
        raise InputError(f"{name} is a folder; give an image file.")
    if not path.is_file():
        raise InputError(f"{name} is no regular file; write the image to a file first.")
    return _open(path, name)


def source_name(source: Source) -> str:
    """Return how an image is named to people: its path, or the start of the URL that holds it."""
    text = os.fspath(source)
    return f"{text[:SHOWN]}... ({len(text)} characters)" if DATA.match(text) and len(text) > SHOWN else text


def _path(text: str) -> Path:
    """Return the path that a word stands for.

    Raises: InputError: a URL that names no file here, or the folder of a user who does not exist.
    """
    scheme = SCHEME.match(text)
    if scheme is not None and scheme["name"].lower() == "file":
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise InputError(f"{text} is on another machine; copy the file here and give its path.")
        return Path(url2pathname(unquote(parts.path)))
    if scheme is not None and not os.path.exists(text):
        raise InputError(f"{text} is a URL, and sparsight fetches nothing; download the image and give the file.")
    try:
        return Path(text).expanduser() if text.startswith("~") and not os.path.exists(text) else Path(text)
    except RuntimeError:
        raise InputError(f"{text}: there is no such user here; give the path of the image.") from None


def _decoded(text: str, name: str) -> bytes:
    """Return the file in a data: URL.

    Raises: InputError: it is no image in base64.
    """
    head = DATA.match(text)
    if head is None or not head["kind"].lower().startswith("image/") or "base64" not in head["rest"].lower().split(";"):
        raise InputError(f"{name} holds no image in base64; give data:image/png;base64,... or a file.")
    try:
        return base64.b64decode("".join(unquote(text[head.end() :]).split()), validate=True)
    except ValueError as error:
        raise InputError(f"{name} is no base64 ({error}); the data may be cut short.") from None


def _open(file: Path | io.BytesIO, name: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            _check_opened(image, name)
            return to_rgb(image, name)
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{name} is too large: {error}") from error
    except UnidentifiedImageError:
        raise InputError(f"{name} cannot be read as an image: its format is not known.") from None
    except BROKEN_FILE as error:
        raise InputError(f"{name} cannot be read as an image: {str(error).rstrip('.')}.") from error


def _check_opened(image: Image.Image, name: str) -> None:
    pixels = image.width * image.height
    if pixels > MOST_PIXELS:
        raise InputError(
            f"{name} is too large: {image.width} x {image.height} pixels; {MOST_PIXELS // 10**6} million are allowed."
        )
    if image.format == "EPS":
        raise InputError(f"{name} is a PostScript program, which would have to be run; convert it to PNG first.")


def rgb_images(images: Any) -> list[Image.Image]:
    """Return images as prompts take them.

    Args: images: one or several; each a Pillow image, a NumPy array (`sparsight.pixels.to_rgb`) or a path.
    Raises: InputError: one is none of these or cannot be read.
    """
    if images is None:
        return []
    if isinstance(images, (Image.Image, np.ndarray, str, os.PathLike)):
        images = [images]
    if isinstance(images, torch.Tensor) or not isinstance(images, Iterable):
        raise InputError(
            f"images is of type {type(images).__name__}; give Pillow images, NumPy arrays (H, W, channels) or paths."
        )
    return [_rgb(image, number) for number, image in enumerate(images, 1)]


def _rgb(image: Any, number: int) -> Image.Image:
    return read_image(image) if isinstance(image, (str, os.PathLike)) else to_rgb(image, f"image {number}")


def check_question(question: Any, processor: Any) -> None:
    """Check that a question is text, and holds nothing that stands for an image.

    Raises: InputError: it is not, is empty, or holds a placeholder of the processor.
    """
    if not isinstance(question, str):
        raise InputError(f"the question is of type {type(question).__name__}; give a str.")
    if not question.strip():
        raise InputError("the question is empty; its words decide what is kept.")
    for token in _places(processor):
        if token in question:
            raise InputError(f"the question holds {token!r}, which stands for an image; leave it out.")


def _places(processor: Any) -> list[str]:
    found = [getattr(processor, name, None) for name in PLACES]
    return [token for token in found if isinstance(token, str) and token] or ["<image>"]


def user_message(question: str, images: Sequence[Image.Image]) -> dict[str, Any]:
    """Return a user's turn as chat templates take it: the images, then the question."""
    content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": question}]
    return {"role": "user", "content": content}


def prompt_inputs(
    model: Any, processor: Any, messages: Messages | list[Messages], settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what a model gets for a conversation or a batch of them, on its device and in its number format.

    A chat template may write the first token (BOS) itself; it stands there once all the same. Without a chat template,
    one question is put in LLaVA-1.5's own words.

    Args:
        model: that answers, of a supported family.
        processor: its processor.
        messages: as chat templates take them, with the images in RGB.
        settings: given to the processor.
    Returns: tensors and lists of tensors; whatever else the processor says is left out.
    Raises: InputError: no prompt can be made of it, it loses an image, or is longer than the model has positions for.
    """
    rows = _rows(messages)
    images = [_images(row) for row in rows]
    _check_settings(settings or {})
    try:
        if getattr(processor, "chat_template", None):
            _check_template(processor, rows, images)
            found = processor.apply_chat_template(
                messages,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs=dict(settings or {}),
            )
        else:
            text = [_in_own_words(processor, row) for row in rows]
            found = processor(images=list(chain(*images)) or None, text=text, return_tensors="pt", **(settings or {}))
    except InputError:
        raise
    except Exception as error:  # whatever a template or a processor raises
        raise InputError(f"the processor can make no prompt of this ({type(error).__name__}: {error}).") from error
    _check_ids(model, found["input_ids"], images)
    moved = {name: _moved(value, model.device, model.dtype) for name, value in found.items()}
    return {name: value for name, value in moved.items() if value is not None}


def _rows(messages: Any) -> list[Messages]:
    """Return a batch of conversations; of one, a batch of one."""
    return list(messages) if messages and isinstance(messages[0], list) else [messages]


def _images(messages: Messages) -> list[Any]:
    parts = [part for message in messages for part in message["content"] if isinstance(part, dict)]
    return [part.get(part["type"]) for part in parts if part.get("type") in ("image", "video")]


def _check_settings(settings: Mapping[str, Any]) -> None:
    for given in (settings, settings.get("text_kwargs") or {}):
        if given.get("truncation") not in (None, False, "do_not_truncate"):
            raise InputError("truncation would cut an image or the question off the prompt; leave it out.")


def _check_template(processor: Any, rows: list[Messages], images: list[list[Any]]) -> None:
    """Check that the chat template writes a place for each image, where it is known what a place looks like."""
    if isinstance(processor.chat_template, dict) and "default" not in processor.chat_template:
        names = ", ".join(processor.chat_template)
        raise InputError(f"the processor has chat templates ({names}), but none named default; set the one to use.")
    for row, own in zip(rows, images, strict=True):
        text = processor.apply_chat_template(row, add_generation_prompt=True, tokenize=False)
        count = max(map(text.count, _places(processor)))
        if 0 < count < len(own):
            raise InputError(f"the chat template has a place for {count} of {len(own)} images; give fewer.")


def _in_own_words(processor: Any, messages: Messages) -> str:
    """Write one question as LLaVA-1.5 was taught it."""
    if len(messages) != 1:
        raise InputError("the processor has no chat template; a conversation of several turns needs one.")
    place, parts = _places(processor)[0], messages[0]["content"]
    words = (f"{place}\n" if part["type"] == "image" else part["text"] for part in parts)
    return f"USER: {''.join(words)} ASSISTANT:"


def _check_ids(model: Any, ids: torch.Tensor, images: list[list[Any]]) -> None:
    """Check the token ids of a prompt: images have their visual tokens, and all tokens have a position."""
    inner: Any = unwrapped(model)
    places = torch.tensor(family_of(inner).placeholder_ids(inner.config))
    for row, own in zip(ids.cpu(), images, strict=True):
        visual = bool(torch.isin(row, places).any())
        if own and not visual and len(places):
            raise InputError(
                f"the prompt has no place for its images ({len(own)}): the processor's chat template writes none."
            )
        if visual and not own:
            raise InputError("the prompt holds places of images, but no image was given; give it, or take them out.")
    config = inner.config.get_text_config()
    most, rope = getattr(config, "max_position_embeddings", None), getattr(config, "rope_parameters", None) or {}
    plain = rope.get("rope_type", "default") == "default" and not any("mrope" in name for name in rope)
    if most and plain and not any(isinstance(value, dict) for value in rope.values()) and ids.shape[1] > most:
        raise InputError(
            f"the prompt has {ids.shape[1]} tokens, but the model has positions for {most}; give fewer images."
        )


def _moved(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Return tensors on a device, floating-point ones in a number format; None for what holds no tensor."""
    if isinstance(value, torch.Tensor):
        return value.to(device, dtype) if value.is_floating_point() else value.to(device)
    if isinstance(value, (list, tuple)) and value:
        parts = [_moved(part, device, dtype) for part in value]
        return None if any(part is None for part in parts) else parts
    return None
