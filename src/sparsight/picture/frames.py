"""Words for the frames of a clip, and which of them a grid of visual tokens stands for."""

from collections.abc import Iterator, Sequence

from PIL import Image

from sparsight.videos import Clip, Frame

MOST_FRAMES = 16  # of one clip that are drawn


def make_clip(images: Sequence[Image.Image]) -> Clip:
    """Return a clip of frames of which nothing else is known."""
    frames = (Frame(index, None, image) for index, image in enumerate(images))
    return Clip("", len(images), None, tuple(frames))


def title_frames(name: str, frames: Sequence[Frame]) -> str:
    """Return the title of a panel: number and second of the frames that it stands for.

    Args:
        name: of the clip, "" where there is only one.
        frames: one, or the neighbours that the model has put together.
    """
    ends = (frames[0], frames[-1]) if len(frames) > 1 else (frames[0],)
    link = " and " if len(frames) == 2 else " to "
    words = [name] if name else []
    words.append(f"frame{'s' * (len(ends) > 1)} {link.join(str(one.index) for one in ends)}")
    times = [f"{one.second:.2f}" for one in ends if one.second is not None]
    if times:
        words.append(f"{link.join(times)} s")
    return ", ".join(words)


def group_frames(frames: Sequence[Frame], count: int) -> Iterator[tuple[Frame, Sequence[Frame]]]:
    """Yield for each of `count` grids the frame that it is drawn over, and all that it stands for.

    A video encoder puts neighbours together, and repeats the last frame where one is missing.
    """
    size = -(-len(frames) // count)  # rounded up
    for index in range(count):
        group = frames[index * size : (index + 1) * size]
        if not group:  # more grids than frames
            group = frames[(2 * index + 1) * len(frames) // (2 * count) :][:1]
        yield group[len(group) // 2], group


def describe_clip(clip: Clip, *, as_video: bool) -> str:
    """Return a note on how a video is shown to the model."""
    kind = "one video" if as_video else "an image for each"
    return (
        f"{len(clip.frames)} of the {clip.total} frames of {clip.name} are shown, as {kind}; "
        "frames are counted from 0."
    )
