"""Puts rows into even batches: neighbours have images of one size and questions of one length."""

import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from PIL import Image

from sparsight.images import find_source_file
from sparsight.serve.batch.media import find_page
from sparsight.serve.batch.rows import Row, locate_images
from sparsight.videos import is_video

WINDOW = 100  # batches whose rows are sorted together; the first answer waits for one window

Shape = tuple[int, ...]


def make_batches(rows: Iterable[Row], base: Path, size: int) -> Iterator[list[Row]]:
    """Yield batches of rows of like shape.

    Args:
        rows: without a fault.
        base: folder that relative paths of images start from.
        size: rows of a batch, at most.
    """
    left = iter(rows)
    while window := list(islice(left, min(WINDOW * size, sys.maxsize))):
        shapes = {row.number: measure(row, base) for row in window}
        window.sort(key=lambda row: (shapes[row.number], row.number))
        for start in range(0, len(window), size):
            yield window[start : start + size]


def measure(row: Row, base: Path) -> Shape:
    """Return what decides a prompt's length: number and sizes of images, length of the question."""
    sizes: list[int] = []
    for source in locate_images(row, base):
        sizes += _read_size(source)
    return (len(row.images), *sizes, len(row.question))


def _read_size(source: str) -> Sequence[int]:
    """Return height and width of an image by its head; zeros where that cannot be read."""
    if find_page(source) or is_video(source):
        return 0, 0
    try:
        path = find_source_file(source)
        if path is None or not path.is_file():
            return 0, 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # reading the image says it again
            with Image.open(path) as image:
                return image.height, image.width
    except Exception:  # whatever Pillow raises; reading the image says what is wrong
        return 0, 0
