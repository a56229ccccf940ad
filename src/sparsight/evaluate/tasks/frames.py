"""Reads frames of a video, evenly spread, with PyAV (`pip install "sparsight[video]"`)."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sparsight.errors import InputError, UnsupportedError
from sparsight.images import MOST_PIXELS

MOST_FRAMES = 200_000  # of a video; more would be hours


def choose_frames(total: int, count: int) -> list[int]:
    """Return which of `total` frames are shown, first and last included, as Video-LLaVA chooses.

    A video of fewer frames than `count` shows some of them twice.
    """
    return [int(at) for at in np.linspace(0, total - 1, count, dtype=int)]


def read_frames(path: Path, count: int) -> list[Image.Image]:
    """Return `count` frames of a video, in RGB.

    All frames are decoded to count them: what a file says of its length is often wrong.

    Args:
        path: of the video.
        count: frames to return.

    Raises:
        InputError: the video cannot be read, or has no, too many or too large frames.
        UnsupportedError: the package av is missing.
    """
    try:
        import av  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UnsupportedError(
            'videos need the package av, not installed here; run: pip install "sparsight[video]"'
        ) from error
    try:
        wanted = choose_frames(_count_frames(av, path), count)
        return _take_frames(av, path, wanted)
    except (OSError, ValueError, EOFError) as error:  # av's errors are of these kinds
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as a video ({error}).") from error


def _count_frames(av: Any, path: Path) -> int:
    total = 0
    with av.open(str(path)) as container:
        stream = _find_stream(container, path)
        for _ in container.decode(stream):
            total += 1
            if total > MOST_FRAMES:
                raise InputError(f"{path} has more than {MOST_FRAMES} frames; cut it first.")
    if not total:
        raise InputError(f"{path} has no frame; download it again.")
    return total


def _take_frames(av: Any, path: Path, wanted: list[int]) -> list[Image.Image]:
    taken: dict[int, Image.Image] = {}
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(_find_stream(container, path))):
            if number in wanted:
                taken[number] = frame.to_image().convert("RGB")
    return [taken[number] for number in wanted]


def _find_stream(container: Any, path: Path) -> Any:
    streams = container.streams.video
    if not streams:
        raise InputError(f"{path} has no picture.")
    if streams[0].width * streams[0].height > MOST_PIXELS:
        raise InputError(f"{path} has frames of more than {MOST_PIXELS} pixels.")
    return streams[0]
