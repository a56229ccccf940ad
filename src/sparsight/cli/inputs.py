"""Reads what was typed on the command line: images, a question, a device, a dtype."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from sparsight.cli.choices import DEVICES
from sparsight.errors import InputError, SettingError
from sparsight.evaluate.settings import DTYPES


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], str]:
    """Return the images and videos, and the question that stands behind them.

    Raises:
        InputError: images and videos, or the question, are missing or empty; or the question is
            no text.
    """
    if len(arguments) < 2:
        raise InputError(
            "give at least one image or video and then the question: "
            'sparsight ask photo.jpg "What is this?"'
        )
    *images, last = arguments
    question = as_text(last).strip()
    if not question:
        raise InputError("the question is empty; its words decide what is kept.")
    if Path(question).suffix and _is_file(question):
        raise InputError(
            f"the last argument {question!r} is a file; "
            "put the question behind the images and videos."
        )
    if not all(images):
        raise InputError("the name of an image is empty; give an image file.")
    return images, question


def as_text(argument: str) -> str:
    """Return an argument as text; bytes that the locale cannot decode are read as UTF-8.

    Raises:
        InputError: the bytes are no text in UTF-8 either.
    """
    undecoded = any("\ud800" <= letter <= "\udfff" for letter in argument)
    if not undecoded:
        return argument
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        raise InputError(
            f"the question {argument!r} is no text in UTF-8; type it in that encoding."
        ) from None


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # longer than any file name
        return False


def read_device(text: str | None) -> torch.device:
    """Return the device that was named; without a name the GPU, or the CPU if there is none.

    Raises:
        SettingError: there is no such device, or this machine has none.
    """
    if text is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
    except RuntimeError:
        raise SettingError(f"--device {text!r} is not known; give {DEVICES}.") from None
    count = _count_devices(device.type)
    if count is None:
        raise SettingError(f"--device {text!r} is not supported; give {DEVICES}.")
    if (device.index or 0) >= count:
        raise SettingError(
            f"--device {text!r} is not here: torch finds {count} of type {device.type}; "
            "leave it out."
        )
    return device


def _count_devices(kind: str) -> int | None:
    """Return how many devices of a type this machine has; None for a type that is refused."""
    if kind == "cpu":
        return 1
    if kind == "cuda":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    return None


def read_dtype(text: str | None) -> torch.dtype | None:
    """Return the dtype that was named; None where none was.

    Raises:
        SettingError: there is no such dtype.
    """
    if text is None:
        return None
    if text not in DTYPES:
        raise SettingError(f"--dtype {text!r} is not known; give one of {', '.join(DTYPES)}.")
    dtype: torch.dtype = getattr(torch, text)
    return dtype
