"""What is shown of a video: frames that know their place and time, and how they are chosen."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sparsight.errors import SettingError

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
FRAMES = 8  # of a video that are shown where no number is given
MOST_SHOWN = 128  # frames of a video that are shown to a model

Choice = Callable[[int, int], list[int]]  # from all frames and how many are shown: which ones


@dataclass(frozen=True)
class Frame:
    """One frame of a video.

    Args:
        index: its place among all frames, counted from 0.
        second: at which it is shown, from the first frame on; None where the file does not say.
        image: upright, in RGB.
    """

    index: int
    second: float | None
    image: Image.Image


@dataclass(frozen=True)
class Clip:
    """Frames of a video, in the order of time.

    Args:
        name: of the file, as given.
        total: frames of the whole video.
        seconds: length of the whole video; None where the file does not say it.
        frames: that are shown.
    """

    name: str
    total: int
    seconds: float | None
    frames: tuple[Frame, ...]

    @property
    def images(self) -> list[Image.Image]:
        """The images of the frames."""
        return [frame.image for frame in self.frames]


def is_video(name: str) -> bool:
    """Return whether a name is that of a video."""
    return not name.startswith("data:") and name.lower().endswith(VIDEOS)


def check_shown(frames: int, option: str = "frames") -> int:
    """Return how many frames of a video are shown, if that is possible.

    Args:
        frames: that are asked for.
        option: what an error calls the number.

    Raises: SettingError: less than 1, or more than `MOST_SHOWN`.
    """
    if not 1 <= frames <= MOST_SHOWN:
        raise SettingError(
            f"{option}={frames} is out of range; give 1 to {MOST_SHOWN} frames of a video."
        )
    return frames


def choose_middles(total: int, count: int) -> list[int]:
    """Return which of `total` frames are shown: the middles of `count` even parts, all if fewer.

    A middle stands for its part, where first and last frames are often black or a title.
    """
    if total <= count:
        return list(range(total))
    return [(2 * part + 1) * total // (2 * count) for part in range(count)]


def choose_with_ends(total: int, count: int) -> list[int]:
    """Return which of `total` frames are shown: even steps from the first to the last.

    The paper's benchmarks need Video-LLaVA's choice; a short video shows some frames twice.
    """
    return [int(at) for at in np.linspace(0, total - 1, count, dtype=int)]
