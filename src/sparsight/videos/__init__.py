"""Videos: the one reader of frames for all rooms, and the two ways of choosing them."""

from sparsight.videos.clip import (
    FRAMES,
    MOST_SHOWN,
    VIDEOS,
    Clip,
    Frame,
    check_shown,
    choose_middles,
    choose_with_ends,
    is_video,
)
from sparsight.videos.reading import read_clip

__all__ = [
    "FRAMES",
    "MOST_SHOWN",
    "VIDEOS",
    "Clip",
    "Frame",
    "check_shown",
    "choose_middles",
    "choose_with_ends",
    "is_video",
    "read_clip",
]
