"""Checks what a caller gives for a picture, and converts images as they are for the model."""

import operator
from collections.abc import Iterator, Mapping
from typing import Any

from sparsight.errors import InputError
from sparsight.images import is_one_image, list_images, rgb_image
from sparsight.picture.frames import make_clip
from sparsight.picture.panels import Shown
from sparsight.picture.sheet import Words
from sparsight.videos import Clip


def convert_images(images: Any) -> list[Shown]:
    """Return stills in RGB, and clips with frames in RGB.

    Args:
        images: one or several, each a Pillow image, a NumPy array (see `sparsight.pixels.to_rgb`),
            a path, or a clip: of `sparsight.videos.read_clip`, or a list of such frames.

    Raises:
        InputError: an image is none of these, or cannot be read.
    """
    listed = [images] if isinstance(images, Clip) else list_images(images)
    return [_convert(image, number) for number, image in enumerate(listed, 1)]


def _convert(image: Any, number: int) -> Shown:
    if isinstance(image, Clip):
        return image
    if is_one_image(image) or not isinstance(image, (list, tuple, Iterator)):
        return rgb_image(image, f"image {number}")
    frames = enumerate(image, 1)
    return make_clip(
        [rgb_image(frame, f"frame {index} of clip {number}") for index, frame in frames]
    )


def words_of(question: Any, answers: Any) -> Words:
    """Return a question and its answers as the words of a picture.

    Raises:
        InputError: the question is no str, or the answers do not map str to str.
    """
    if not isinstance(question, str):
        raise InputError(f"question is of type {type(question).__name__}; give a str.")
    if answers is None:
        return Words(question)
    if not isinstance(answers, Mapping):
        raise InputError(
            f"answers is of type {type(answers).__name__}; give a dict of labels and answers."
        )
    for word in (*answers, *answers.values()):
        if not isinstance(word, str):
            raise InputError(
                f"answers holds {word!r} of type {type(word).__name__}; give a dict of str and str."
            )
    return Words(question, tuple(answers.items()))


def read_sample_number(sample: Any, count: int) -> int:
    """Return the index of the sample that is drawn, of a batch of `count`.

    Raises:
        InputError: the index is no whole number, or there is no such sample.
    """
    try:
        number = None if isinstance(sample, bool) else operator.index(sample)
    except TypeError:
        number = None
    if number is None:
        raise InputError(
            f"sample={sample!r} is of type {type(sample).__name__}; give an int, counted from 0."
        )
    if not 0 <= number < count:
        raise InputError(f"sample={number}: the last prefill had {count} samples, counted from 0.")
    return number
