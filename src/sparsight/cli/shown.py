"""What `sparsight ask` shows to a model: images, and frames of videos."""

from collections.abc import Iterator, Sequence
from typing import Any

from sparsight.errors import SettingError
from sparsight.images import read_image
from sparsight.inputs import Shown
from sparsight.videos import FRAMES, Clip, Frame, check_shown, is_video, read_clip

MOST_TIMES = 16  # of the frames of a video that are printed for people


def read_frames_option(frames: int | None, sources: Sequence[str]) -> int:
    """Return how many frames of each video are shown.

    Args:
        frames: as typed; None for the default.
        sources: images and videos as typed.

    Raises: SettingError: the number is out of range, or there is no video.
    """
    if frames is None:
        return FRAMES
    if not any(map(is_video, sources)):
        raise SettingError(f"--frames {frames} has no effect: no video is given; leave it out.")
    return check_shown(frames, "--frames")


def read_shown(sources: Sequence[str], frames: int) -> list[Shown]:
    """Return the images and the clips of the videos, in order.

    Args:
        sources: paths or URLs.
        frames: of each video.

    Raises:
        InputError: one is missing, broken or too large.
        UnsupportedError: there is a video, and PyAV is not installed.
    """
    return [
        read_clip(source, frames) if is_video(source) else read_image(source) for source in sources
    ]


def describe_clips(clips: Sequence[Clip], as_videos: bool) -> list[dict[str, Any]]:
    """Return what the JSON document says of the videos; seconds count from the first frame."""
    return [
        {
            "name": clip.name,
            "shown_as": "video" if as_videos else "images",
            "total_frames": clip.total,
            "seconds": clip.seconds,
            "frames": list(map(_describe_frame, clip.frames)),
        }
        for clip in clips
    ]


def _describe_frame(frame: Frame) -> dict[str, Any]:
    return {"index": frame.index, "second": frame.second}


def write_clips(clips: Sequence[Clip], as_videos: bool) -> Iterator[str]:
    """Yield a line for people for each video."""
    for clip in clips:
        count = len(clip.frames)
        whole = count == clip.total
        if count == 1:
            number, kind = "the only frame" if whole else "1 frame", "an image"
        else:
            number, kind = f"{'all ' * whole}{count} frames", "images"
        kind = "a video" if as_videos else kind
        yield f"{number} of {clip.name}, shown as {kind}{_when(clip)}"


def _when(clip: Clip) -> str:
    """Return the seconds of the frames, as the end of a line; of many frames the first and last."""
    if clip.seconds is None:
        return ""
    times = [f"{frame.second:.3g}" for frame in clip.frames]
    if len(times) > MOST_TIMES:
        times = [*times[:2], "...", times[-1]]
    return f": at {', '.join(times)} s of {clip.seconds:.3g} s"
