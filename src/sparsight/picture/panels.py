"""Panels: which grids of a layout lie over which image, and where. Pure but for asking the image processor."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

from PIL import Image

from sparsight.counts.layout import Layout, PatchGrid
from sparsight.errors import InputError, UnsupportedError
from sparsight.picture.seen import WHOLE, Box, seen_boxes

Shown = Image.Image | Sequence[Image.Image]  # a still, or the frames of a clip in order; in RGB
MOST_FRAMES = 8  # of one clip that are drawn
LEAST_SEEN = 0.015  # share of an image's width or height that is read well enough to be drawn
PATCH, LONGEST = 6, 1200  # px of a patch's side, at least, and of a panel's, at most
PADDING = (127, 127, 127)
NO_PROCESSOR = "No processor was given: images are drawn as if all of them was seen; processor= marks what is not."
PART = "{} is long and thin: only what is seen of it and what lies near is drawn."
FRAMES = "Frames are drawn whole; what a video processor cuts off them is not marked."


@dataclass(frozen=True)
class Panel:
    """One image, and the grids that lie over it.

    Args:
        title: what it shows.
        image: whole, in RGB; with the padding that the model sees around it.
        grids: that lie over it.
        boxes: of each grid, the part of the image that it covers, in shares of the image.
    """

    title: str
    image: Image.Image
    grids: tuple[PatchGrid, ...]
    boxes: tuple[Box, ...]


def check_drawable(layout: Layout | None) -> Layout:
    """Return a layout that a picture can be made of.

    Raises: UnsupportedError: it is not known, or no token is a patch.
    """
    if layout is None:
        raise UnsupportedError(
            "no picture can be drawn: where this model's visual tokens lie is not known for this prompt. "
            "Leave the picture out; `sparsight models` lists the models whose layout is known."
        )
    if not layout.grids:
        raise UnsupportedError(
            "no picture can be drawn: this model's visual tokens answer learned queries and lie nowhere in the image. "
            "Leave the picture out."
        )
    return layout


def panels(
    layout: Layout, images: Sequence[Shown], processor: Any = None
) -> tuple[list[Panel], list[str]]:
    """Lay the grids of a sample over its images.

    Args:
        layout: with grids.
        images: of the sample in the order of the prompt, a clip as its frames.
        processor: the model's, asked what it shows of an image; None for whole images.
    Returns: panels in the order of the prompt, and what a reader has to know.
    Raises: InputError: other images than the prompt's, one that next to nothing is seen of, or no
    processor.
    """
    if processor is not None and getattr(processor, "image_processor", None) is None:
        raise InputError(
            f"processor is of type {type(processor).__name__} and has no image_processor; give the model's processor, "
            "as AutoProcessor loads it, or None."
        )
    stills = any(isinstance(shown, Image.Image) for shown in images)
    notes = [NO_PROCESSOR] if stills and processor is None else []
    shares = [
        seen_boxes(processor, shown.size) if isinstance(shown, Image.Image) else [WHOLE]
        for shown in images
    ]
    if sum(map(len, shares)) != layout.image_count:
        raise InputError(
            f"the prompt holds {layout.image_count} images or tiles, and the {len(images)} given make "
            f"{sum(map(len, shares))}; give the images of this sample in the order of its prompt, a clip as a list of "
            "frames, and processor=, which knows how images are tiled."
        )
    found: list[Panel] = []
    first = 0
    for index, (shown, boxes) in enumerate(zip(images, shares, strict=True)):
        name = f"image {index + 1}" if len(images) > 1 else "the image"
        grids = [
            [grid for grid in layout.grids if grid.image == first + tile]
            for tile in range(len(boxes))
        ]
        first += len(boxes)
        if isinstance(shown, Image.Image):
            _check_seen(name, shown, boxes)
            still, more = _still(name, shown, grids, boxes)
            found, notes = found + still, notes + more
        else:
            clip, more = _clip(
                f"clip {index + 1}" if len(images) > 1 else "the clip", shown, grids[0]
            )
            found, notes = found + clip, notes + more
    return found, notes


def _check_seen(name: str, image: Image.Image, boxes: list[Box]) -> None:
    """Check that it can be read from the processor which part of an image is seen."""
    least = min(min(box[2] - box[0], box[3] - box[1]) for box in boxes)
    if least < LEAST_SEEN:
        raise InputError(
            f"{name} cannot be drawn: of its {image.width} x {image.height} pixels, the processor shows the model less "
            f"than {100 * LEAST_SEEN:g} % of the length; crop the image, or leave the picture out."
        )


def _still(
    name: str, image: Image.Image, tiles: list[list[PatchGrid]], boxes: list[Box]
) -> tuple[list[Panel], list[str]]:
    """Return panels of an image, one for all tiles that lie side by side, and what a reader has to know."""
    if any(grid.frame for grids in tiles for grid in grids):
        raise InputError(
            f"{name} is a clip in the prompt, and a still was given; give a list of its frames."
        )
    image, boxes = _with_padding(image, boxes)
    whole = image
    image, boxes = _near(image, boxes, tiles)
    notes = [] if image is whole else [PART.format(name)]
    if len(tiles) == 1 and len(tiles[0]) > 1:
        kinds = ("overview", "fine grid")
        return [
            Panel(f"{name}, {kinds[grid.part]}", image, (grid,), (boxes[0],)) for grid in tiles[0]
        ], notes
    groups: list[list[int]] = []
    for tile, box in enumerate(boxes):
        if not groups or any(_overlap(box, boxes[other]) for other in groups[-1]):
            groups.append([])
        groups[-1].append(tile)
    made = []
    for group in groups:
        count = (
            f", {len(group)} tiles"
            if len(group) > 1
            else ", in one tile"
            if len(groups) > 1
            else ""
        )
        grids = tuple(grid for tile in group for grid in tiles[tile])
        made.append(Panel(name + count, image, grids, tuple(boxes[tile] for tile in group)))
    return made, notes


def _near(
    image: Image.Image, boxes: list[Box], tiles: list[list[PatchGrid]]
) -> tuple[Image.Image, list[Box]]:
    """Cut an image to what is seen of it and what lies near, where patches would be too small to be seen otherwise."""
    size = image.size
    sides = [
        size[axis] * (box[axis + 2] - box[axis]) / grid.size[1 - axis]
        for box, grids in zip(boxes, tiles, strict=True)
        for grid in grids
        for axis in (0, 1)
    ]
    room = min(sides, default=max(size)) * LONGEST / PATCH
    ends = [(0, size[0]), (0, size[1])]
    for axis in (0, 1):
        first, last = (
            size[axis] * edge
            for edge in (min(b[axis] for b in boxes), max(b[axis + 2] for b in boxes))
        )
        if size[axis] > room > last - first:
            start = min(max(0, (first + last - room) / 2), size[axis] - room)
            ends[axis] = floor(start), min(size[axis], ceil(start + room))
    if ends == [(0, size[0]), (0, size[1])]:
        return image, boxes
    (left, right), (top, bottom) = ends
    scales = [(size[axis], ends[axis][0], ends[axis][1] - ends[axis][0]) for axis in (0, 1, 0, 1)]
    moved = [
        tuple((edge * s - t) / u for edge, (s, t, u) in zip(box, scales, strict=True))
        for box in boxes
    ]
    return image.crop((left, top, right, bottom)), [
        (box[0], box[1], box[2], box[3]) for box in moved
    ]


def _overlap(one: Box, other: Box) -> bool:
    """Tell whether two boxes share more than their edges."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return min(across, down) > 0.05 * min(one[2] - one[0], one[3] - one[1])


def _with_padding(image: Image.Image, boxes: list[Box]) -> tuple[Image.Image, list[Box]]:
    """Draw the padding that the model sees, and count boxes in shares of the larger image."""
    left, top = (min(0.0, *(box[side] for box in boxes)) for side in (0, 1))
    right, bottom = (max(1.0, *(box[side] for box in boxes)) for side in (2, 3))
    if (left, top, right, bottom) == WHOLE:
        return image, boxes
    wide, high = right - left, bottom - top
    less = min(
        1.0, 2 * LONGEST / max(image.width * wide, image.height * high)
    )  # a thin image grows by much
    image = (
        image.resize((max(1, round(image.width * less)), max(1, round(image.height * less))))
        if less < 1
        else image
    )
    canvas = Image.new("RGB", (round(image.width * wide), round(image.height * high)), PADDING)
    canvas.paste(image, (round(-left * image.width), round(-top * image.height)))
    moved = [
        (
            (box[0] - left) / wide,
            (box[1] - top) / high,
            (box[2] - left) / wide,
            (box[3] - top) / high,
        )
        for box in boxes
    ]
    return canvas, moved


def _clip(
    name: str, frames: Sequence[Image.Image], grids: list[PatchGrid]
) -> tuple[list[Panel], list[str]]:
    """Return panels of a clip, evenly chosen where there are many; a grid may stand for several frames."""
    if not frames:
        raise InputError(f"{name} has no frames; give a list of images.")
    count = len(grids)
    drawn = min(count, MOST_FRAMES)
    chosen = [(2 * i + 1) * count // (2 * drawn) for i in range(drawn)]
    notes = [FRAMES]
    if len(chosen) < count:
        notes.append(f"{len(chosen)} of {count} frames of {name} are drawn.")
    if len(frames) != count:
        notes.append(
            f"{name} has {len(frames)} frames for {count} grids; each grid is drawn over its middle frame."
        )
    made = []
    for index in chosen:
        frame = frames[(2 * index + 1) * len(frames) // (2 * count)]
        made.append(
            Panel(f"{name}, frame {index + 1} of {count}", frame, (grids[index],), (WHOLE,))
        )
    return made, notes


def seen_part(panel: Panel) -> Image.Image:
    """Return what is seen of a panel's image, by all its grids together."""
    ends = []
    for axis, side in enumerate(panel.image.size):
        first = min(round(min(box[axis] for box in panel.boxes) * side), side - 1)
        ends.append(
            (first, max(round(max(box[axis + 2] for box in panel.boxes) * side), first + 1))
        )
    (left, right), (top, bottom) = ends
    return panel.image.crop((left, top, right, bottom))
