"""Reads frames of videos with PyAV (`pip install "sparsight[video]"`).

A file is decoded once from end to end, and its frames are counted as they come: what a file says of
its own length is often wrong. Frames are turned upright, and know at which second they are shown by
their own time stamps, so that a changing frame rate does no harm.

What is used of PyAV is looked for before a file is opened.
"""

import warnings
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sparsight.errors import InputError, InputWarning, UnsupportedError
from sparsight.images import MOST_PIXELS, Source, find_source_file, name_source
from sparsight.needs import load_package
from sparsight.videos.clip import VIDEOS, Choice, Clip, Frame, check_shown, choose_middles

MOST_FRAMES = 200_000  # of a video, an hour and more
MOST_SHOWN_PIXELS = 4 * MOST_PIXELS  # of all frames of a video that are shown
# containers that are opened, by FFmpeg's names: others may name further files, or URLs
CONTAINERS = "mov,mp4,matroska,webm,avi,gif,flv,asf,ogg,mpeg,mpegts"
OPTIONS = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
# a file that promises more than it holds is broken; its length may be off by this share and seconds
SLACK = 0.1
SLACK_SECONDS = 1.0
# what is used of PyAV
USED = {
    "VideoFrame": ("rotation", "side_data", "is_corrupt", "to_image", "time", "duration"),
    "Packet": ("is_corrupt", "is_discard", "decode"),
    "stream": ("Disposition",),
}
MATRIX = "DISPLAYMATRIX"  # of a frame's side data: 9 int32, row by row, the last column 0, 0, 1


@dataclass
class _Decoded:
    """What was decoded of a video.

    Args:
        times: of all frames so far, s; None where one has none.
        end: where the last of them ends, s.
        cut: whether the last packet is not whole.
        images: of the frames that were wanted, by index.
    """

    times: list[float | None] = field(default_factory=list)
    end: float = 0.0
    cut: bool = False
    images: dict[int, Image.Image] = field(default_factory=dict)

    def list_seconds(self) -> list[float] | None:
        """Return the second of each frame from the first one on; None if a time is missing.

        Frames come in the order in which they are shown, and so do their times, once sorted: AVI
        keeps the order in which they were stored.
        """
        known = sorted(time for time in self.times if time is not None)
        if len(known) < len(self.times):
            return None
        return [round(time - known[0], 3) for time in known]


def read_clip(source: Source, count: int, choose: Choice = choose_middles) -> Clip:
    """Return frames of a video.

    Warns (InputWarning) of a frame that is shown but damaged, and of a file without times.

    Args:
        source: path or file:// URL of the video.
        count: frames that are asked for, 1 to `MOST_SHOWN`.
        choose: which ones are shown.

    Raises:
        InputError: there is no such file; or it is empty, broken, too large, or holds no video.
        SettingError: `count` is out of range.
        UnsupportedError: PyAV is not installed, or lacks what is used of it.
    """
    check_shown(count)
    name = name_source(source)
    av = _load_av(name)
    path = _find_file(source, name)
    try:
        with av.open(str(path), options=OPTIONS) as container:
            expected, promised = _look_through(av, container, name)
        decoded = _decode(av, path, name, choose(expected, count))
        wanted = choose(len(decoded.times), count)
        if not decoded.images.keys() >= set(wanted):  # some packets hold no frame that is shown
            decoded = _decode(av, path, name, wanted)
    except (av.FFmpegError, OSError) as error:
        raise InputError(
            f"{name} cannot be read as a video ({_explain(error)}); it may be cut short, or none "
            f"of {', '.join(VIDEOS)}."
        ) from error
    return _make_clip(name, decoded, wanted, promised)


def _load_av(name: str) -> Any:
    av = load_package("av", name)
    parts = [(part, at) for part, names in USED.items() for at in names]
    missing = [f"{part}.{at}" for part, at in parts if not hasattr(getattr(av, part, None), at)]
    if missing:
        raise UnsupportedError(f"this PyAV has no {', '.join(missing)}; install PyAV 15 or later.")
    return av


def _find_file(source: Source, name: str) -> Path:
    """Return the path of a video's file.

    Raises: InputError: there is none, or it is empty.
    """
    path = find_source_file(source)
    try:
        if path is None or not path.exists():
            raise InputError(f"{name}: no such file.")
        if not path.is_file():
            raise InputError(f"{name} is no regular file; give the file of a video.")
        size = path.stat().st_size
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{name[:40]}: cannot be looked up: {error}.") from None
    if not size:
        raise InputError(f"{name} is empty; save or download it again.")
    return path.absolute()  # a relative path such as "a:b.mp4" would be a URL for FFmpeg


def _find_stream(av: Any, container: Any, name: str) -> Any:
    """Return the first video of a file; the cover of a piece of music is none."""
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        raise InputError(f"{name} holds no video, only sound or a cover; give another file.")
    stream = streams[0]
    if stream.codec_context is None:
        raise InputError(f"{name} is coded in a way that PyAV cannot decode; save it as H.264.")
    return stream


def _look_through(av: Any, container: Any, name: str) -> tuple[int, float | None]:
    """Return how many frames a video seems to have, and the seconds that it promises.

    Nothing is decoded. A packet may hold a frame that is never shown, and so the count may be off.
    """
    stream = _find_stream(av, container, name)
    _check_size(stream.codec_context.width, stream.codec_context.height, name)
    count = 0
    for packet in container.demux(stream):
        count += bool(packet.size) and not packet.is_discard
        _check_count(count, name)
    if not count:
        raise InputError(f"{name} has no frames; save or download it again.")
    return count, _read_promise(container, stream)


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MOST_PIXELS:
        raise InputError(
            f"{name} is too large: {width} x {height} pixels; "
            f"{MOST_PIXELS / 10**6:.6g} million are allowed."
        )


def _check_count(count: int, name: str) -> None:
    if count > MOST_FRAMES:
        raise InputError(f"{name} has more than {MOST_FRAMES} frames; cut it.")


def _read_promise(container: Any, stream: Any) -> float | None:
    """Return the seconds that a file says its video has; None if it does not say it."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1  # else the sound may be longer than the video
    if not alone or container.duration is None:
        return None
    # Matroska counts from 0, also where the first frame comes later
    return float(container.duration - max(0, container.start_time or 0)) / 10**6


def _decode(av: Any, path: Path, name: str, wanted: Collection[int]) -> _Decoded:
    """Return what was decoded of a whole video, with the images of the frames that are wanted."""
    decoded = _Decoded()
    with av.open(str(path), options=OPTIONS) as container:
        stream = _find_stream(av, container, name)
        try:
            for packet in container.demux(stream):
                decoded.cut = bool(packet.is_corrupt) if packet.size else decoded.cut
                for frame in packet.decode():
                    _add_frame(decoded, frame, name, wanted)
        except (av.FFmpegError, OSError) as error:
            raise InputError(
                f"{name} is broken: frame {len(decoded.times)}, counted from 0, cannot be decoded "
                f"({_explain(error)}); save or download it again."
            ) from error
    if not decoded.times:
        raise InputError(f"{name} is broken: none of its frames can be decoded.")
    return decoded


def _add_frame(decoded: _Decoded, frame: Any, name: str, wanted: Collection[int]) -> None:
    index = len(decoded.times)
    _check_count(index + 1, name)
    _check_size(frame.width, frame.height, name)  # which may change from frame to frame
    decoded.times.append(frame.time)
    if frame.time is not None:
        lasts = float((frame.duration or 0) * frame.time_base)
        decoded.end = max(decoded.end, frame.time + lasts)
    if index not in wanted:
        return
    pixels = frame.width * frame.height * len(set(wanted))
    if pixels > MOST_SHOWN_PIXELS:
        raise InputError(
            f"{len(set(wanted))} frames of {name} have {pixels / 10**6:.4g} million pixels; "
            f"{MOST_SHOWN_PIXELS / 10**6:.4g} million are allowed, so show fewer frames."
        )
    if frame.is_corrupt:
        warnings.warn(
            f"{name}: frame {index} is damaged, and shown as far as it can be decoded.",
            InputWarning,
            stacklevel=4,
        )
    decoded.images[index] = turn_frame(frame.to_image(), frame.rotation, is_mirrored(frame))


def is_mirrored(frame: Any) -> bool:
    """Return whether a frame of PyAV is shown mirrored, as some front cameras store it."""
    data = frame.side_data.get(MATRIX)
    if data is None:
        return False
    matrix = np.frombuffer(data, dtype=np.int32).astype(float).tolist()
    return bool(matrix[0] * matrix[4] < matrix[1] * matrix[3])


def turn_frame(image: Image.Image, degrees: int, mirrored: bool = False) -> Image.Image:
    """Return a frame upright, by what the video says of its frames.

    Args:
        image: as it is stored.
        degrees: by which it is turned, counter-clockwise.
        mirrored: whether it is turned upside down in a mirror first.
    """
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return image.rotate(degrees, expand=True) if degrees else image


def _make_clip(
    name: str, decoded: _Decoded, wanted: Collection[int], promised: float | None
) -> Clip:
    """Return the wanted frames.

    Raises: InputError: the file ends before its end.
    """
    total = len(decoded.times)
    seconds = decoded.list_seconds()
    if seconds is None:
        warnings.warn(f"{name} does not say when its frames are shown.", InputWarning, stacklevel=3)
        frames = tuple(Frame(index, None, decoded.images[index]) for index in wanted)
        return Clip(name, total, None, frames)
    start = min(time for time in decoded.times if time is not None)
    length = round(decoded.end - start, 3)
    short = promised is not None and promised - length > max(SLACK_SECONDS, SLACK * promised)
    if decoded.cut or short:
        of = f" of {promised:.4g}" if short else ""
        raise InputError(
            f"{name} is broken: it is cut off after {length:.4g}{of} seconds; "
            "save or download it again."
        )
    frames = tuple(Frame(index, seconds[index], decoded.images[index]) for index in wanted)
    return Clip(name, total, length, frames)


def _explain(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")
