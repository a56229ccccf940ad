"""From words on the command line to images, a question, a device and a number format."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from sparsight.cli.words import DEVICES
from sparsight.errors import InputError, SettingError
from sparsight.evaluate.settings import DTYPES


def split_words(words: Sequence[str]) -> tuple[list[str], str]:
    """Return the images and the question behind them.

    Raises: InputError: one of them is missing, empty or no text.
    """
    if len(words) < 2:
        raise InputError(
            'give at least one image and then the question: sparsight ask photo.jpg "What is this?"'
        )
    *names, question = words
    question = as_text(question).strip()
    if not question:
        raise InputError("the question is empty; its words decide what is kept.")
    if Path(question).suffix and _is_file(question):
        raise InputError(
            f"the last argument {question!r} is a file; put the question behind the images."
        )
    if not all(names):
        raise InputError("the name of an image is empty; give an image file.")
    return names, question


def as_text(word: str) -> str:
    """Return a word as text; where the locale does not know its bytes, they are read as UTF-8.

    Raises: InputError: they are no text.
    """
    try:
        return (
            os.fsencode(word).decode("utf-8")
            if any("\ud800" <= letter <= "\udfff" for letter in word)
            else word
        )
    except UnicodeError:
        raise InputError(
            f"the question {word!r} is no text in UTF-8; type it in that encoding."
        ) from None


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # longer than any name
        return False


def read_device(text: str | None) -> torch.device:
    """Return the device to run on: the one asked for, else the GPU if there is one.

    Raises: SettingError: no such device, or it is not here.
    """
    if text is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
    except RuntimeError:
        raise SettingError(f"--device {text!r} is not known; give {DEVICES}.") from None
    count = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }.get(device.type)
    if count is None:
        raise SettingError(f"--device {text!r} is not supported; give {DEVICES}.")
    if (device.index or 0) >= count:
        raise SettingError(
            f"--device {text!r} is not here: torch finds {count} of type {device.type}; leave it out."
        )
    return device


def read_dtype(text: str | None) -> torch.dtype | None:
    """Return the number format asked for; None for the one that the weights have.

    Raises: SettingError: no such format.
    """
    if text is None:
        return None
    if text not in DTYPES:
        raise SettingError(f"--dtype {text!r} is not known; give one of {', '.join(DTYPES)}.")
    found: torch.dtype = getattr(torch, text)
    return found
