"""From words on the command line to a prompt: images, question, chat template."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps

from sparsight.errors import InputError

MOST_PIXELS = 50_000_000


def split_words(words: Sequence[str]) -> tuple[list[Path], str]:
    """Return the images and the question behind them.

    Raises: InputError: one of them is missing or empty.
    """
    if len(words) < 2:
        raise InputError('give at least one image and then the question: sparsight ask photo.jpg "What is this?"')
    *names, question = words
    if not question.strip():
        raise InputError("the question is empty; its words decide what is kept.")
    if Path(question).suffix and Path(question).is_file():
        raise InputError(f"the last argument {question!r} is a file; put the question behind the images.")
    return [Path(name) for name in names], question.strip()


def read_image(path: Path) -> Image.Image:
    """Open an image upright and in RGB.

    Raises: InputError: missing, no image, broken, or of more than 50 million pixels.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file.")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give an image file.")
    try:
        with Image.open(path) as image:
            _check_size(path, image)
            upright: Image.Image = ImageOps.exif_transpose(image)
            return upright.convert("RGB")
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} is too large: {error}") from error
    # Pillow's readers raise all of these on broken files
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, EOFError, OverflowError, MemoryError) as error:
        raise InputError(f"{path} cannot be read as an image: {error}.") from error


def _check_size(path: Path, image: Image.Image) -> None:
    pixels = image.width * image.height
    if pixels > MOST_PIXELS:
        raise InputError(
            f"{path} is too large: {image.width} x {image.height} pixels; {MOST_PIXELS // 10**6} million are allowed."
        )


def make_inputs(processor: Any, images: Sequence[Image.Image], question: str) -> dict[str, Any]:
    """Turn images and a question into what the model takes.

    Raises: InputError: the question holds the processor's image placeholder.
    """
    token = getattr(processor, "image_token", "<image>")
    if token in question:
        raise InputError(f"the question holds {token!r}, which stands for an image; leave it out.")
    if getattr(processor, "chat_template", None):
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    else:  # LLaVA-1.5's own words
        places = f"{token}\n" * len(images)
        text = f"USER: {places}{question} ASSISTANT:"
    return dict(processor(images=list(images), text=text, return_tensors="pt"))


def to_device(inputs: dict[str, Any], device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Move inputs to the model; pixels take its number format."""
    return {
        name: value.to(device, dtype) if value.is_floating_point() else value.to(device)
        for name, value in inputs.items()
        if isinstance(value, torch.Tensor)
    }
