"""Reads images from paths, file:// and data: URLs, and from objects in memory; fetches nothing."""

import base64
import io
import os
import re
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from sparsight.errors import InputError
from sparsight.pixels import BROKEN_FILE, to_rgb

MOST_PIXELS = 50_000_000
SHOWN = 40  # characters of a data: URL that an error or a result shows
SCHEME = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9+.-]+):/")  # two letters or more: C:/ is a drive
# each part ends where the next can begin, so that no text makes the search go back and forth
DATA = re.compile(r"data:(?P<kind>[^;,]*)(?P<rest>(?:;[^,]*)?),", re.IGNORECASE)

Source = str | os.PathLike[str]


def read_image(source: Source) -> Image.Image:
    """Return the image of a file or URL, upright and in RGB (see `sparsight.pixels`).

    Args:
        source: a path, `~` allowed; a file:// URL; or a data: URL with the image in base64.

    Raises:
        InputError: another URL; or an image that is missing, broken, no image, or of more than 50
            million pixels.
    """
    text = os.fspath(source)
    name = name_source(source)
    if not text:
        raise InputError("the path of an image is empty; give an image file.")
    path = find_source_file(source)
    if path is None:
        return open_image(io.BytesIO(decode_data_url(text, name)), name)
    try:
        path.stat()
    except FileNotFoundError:
        raise InputError(f"{name}: no such file.") from None
    # ValueError: a null byte in the name. OSError: a name that is too long, or a closed folder.
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name[:SHOWN]}: cannot be looked up: {reason}.") from None
    if path.is_dir():
        raise InputError(f"{name} is a folder; give an image file.")
    if not path.is_file():
        raise InputError(f"{name} is no regular file; write the image to a file first.")
    return open_image(path, name)


def name_source(source: Source) -> str:
    """Return how an image is named to people: its path or URL, or the start of a data: URL."""
    text = os.fspath(source)
    if DATA.match(text) and len(text) > SHOWN:
        return f"{text[:SHOWN]}... ({len(text)} characters)"
    return text


def find_source_file(source: Source) -> Path | None:
    """Return the path of an image's or a video's file; None for a data: URL, which holds the image.

    Raises:
        InputError: a URL that is no local file or none at all, or a home folder that cannot be
            found.
    """
    text = os.fspath(source)
    if DATA.match(text):
        return None
    scheme = SCHEME.match(text)
    if scheme is not None and scheme["name"].lower() == "file":
        try:
            parts = urlsplit(text)
        except ValueError as error:
            raise InputError(f"{text[:SHOWN]} is no URL ({error}); give the path.") from None
        if parts.netloc not in ("", "localhost"):
            raise InputError(f"{text} is on another machine; copy the file here and give its path.")
        return Path(url2pathname(unquote(parts.path)))
    if os.path.exists(text):
        return Path(text)
    if scheme is not None:
        raise InputError(
            f"{text} is a URL, and sparsight fetches nothing; download it and give the file."
        )
    try:
        return Path(text).expanduser() if text.startswith("~") else Path(text)
    except RuntimeError:
        user = Path(text).parts[0][1:]
        why = f"there is no such user here as {user}" if user else "your home folder is not known"
        raise InputError(f"{text}: {why}; give the path of the file without ~.") from None
    except ValueError as error:  # a null byte in the name
        raise InputError(f"{text[:SHOWN]}: cannot be looked up: {error}.") from None


def is_data_url(text: str) -> bool:
    """Return whether a text is a data: URL, whatever it holds."""
    return DATA.match(text) is not None


def decode_data_url(text: str, name: str) -> bytes:
    """Return the image file that a data: URL holds.

    Args:
        text: the URL.
        name: what an error calls it.

    Raises:
        InputError: the URL holds no image in base64.
    """
    head = DATA.match(text)
    is_image = head is not None and head["kind"].lower().startswith("image/")
    if head is None or not is_image or "base64" not in head["rest"].lower().split(";"):
        raise InputError(
            f"{name} holds no image in base64; give data:image/png;base64,... or a file."
        )
    try:
        return base64.b64decode("".join(unquote(text[head.end() :]).split()), validate=True)
    except ValueError as error:
        raise InputError(f"{name} is no base64 ({error}); the data may be cut short.") from None


def open_image(
    file: Path | io.BytesIO,
    name: str,
    *,
    formats: tuple[str, ...] | None = None,
    most_pixels: int = MOST_PIXELS,
) -> Image.Image:
    """Return the image of a file, upright and in RGB.

    Args:
        file: on disk or in memory.
        name: what an error calls the image.
        formats: that are tried, by Pillow's names; None tries all.
        most_pixels: that the image may have; its header is read first, and its pixels are not
            decoded if it has more.

    Raises:
        InputError: the image is broken, of another format, or too large.
    """
    try:
        with Image.open(file, formats=formats) as image:
            _check_opened(image, name, most_pixels)
            return to_rgb(image, name)
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{name} is too large: {error}") from error
    except UnidentifiedImageError:
        known = f"none of {', '.join(formats)}" if formats else "not known"
        raise InputError(f"{name} cannot be read as an image: its format is {known}.") from None
    except BROKEN_FILE as error:
        raise InputError(f"{name} cannot be read as an image: {str(error).rstrip('.')}.") from error


def _check_opened(image: Image.Image, name: str, most_pixels: int) -> None:
    if image.width * image.height > most_pixels:
        raise InputError(
            f"{name} is too large: {image.width} x {image.height} pixels; "
            f"{most_pixels / 10**6:.6g} million are allowed."
        )
    if image.format == "EPS":
        raise InputError(
            f"{name} is a PostScript program, which would have to be run; convert it to PNG first."
        )


def rgb_images(images: Any) -> list[Image.Image]:
    """Return one image or several as a list of RGB images.

    Args:
        images: one or several, each a Pillow image, a NumPy array (see `sparsight.pixels.to_rgb`)
            or a path.

    Raises:
        InputError: an image is none of these, or cannot be read.
    """
    return [
        rgb_image(image, f"image {number}") for number, image in enumerate(list_images(images), 1)
    ]


def rgb_image(image: Any, name: str) -> Image.Image:
    """Return one image in RGB.

    Args:
        image: a Pillow image, a NumPy array or a path.
        name: what an error calls the image, unless it is a path.

    Raises:
        InputError: the image is none of these, or cannot be read.
    """
    return read_image(image) if isinstance(image, (str, os.PathLike)) else to_rgb(image, name)


def is_one_image(image: Any) -> bool:
    """Return whether an object is one image, and not several."""
    return isinstance(image, (Image.Image, np.ndarray, str, os.PathLike))


def list_images(images: Any) -> list[Any]:
    """Return one image or several as a list, without reading any of them.

    Raises:
        InputError: the object is neither an image nor an iterable.
    """
    if images is None:
        return []
    if is_one_image(images):
        return [images]
    others = torch.Tensor, Mapping, Set, bytes, bytearray, memoryview, io.IOBase
    if isinstance(images, others) or not isinstance(images, Iterable):
        raise InputError(
            f"images is of type {type(images).__name__}; give one image or a list of them: "
            "Pillow images, NumPy arrays (H, W, channels) or paths."
        )
    return list(images)
