"""Panels: which grids of a layout lie over which image, and where. Pure but for asking the image processor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from sparsight.counts.layout import Layout, PatchGrid
from sparsight.errors import InputError, UnsupportedError
from sparsight.picture.seen import WHOLE, Box, seen_boxes

Shown = Image.Image | Sequence[Image.Image]  # a still, or the frames of a clip in order
MOST_FRAMES = 8  # of one clip that are drawn
PADDING = (127, 127, 127)
NO_PROCESSOR = "No processor was given: images are drawn as if all of them was seen; processor= marks what is not."
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


def panels(layout: Layout, images: Sequence[Shown], processor: Any = None) -> tuple[list[Panel], list[str]]:
    """Lay the grids of a sample over its images.

    Args:
        layout: with grids.
        images: of the sample in the order of the prompt, a clip as its frames.
        processor: the model's, asked what it shows of an image; None for whole images.
    Returns: panels in the order of the prompt, and what a reader has to know.
    Raises: InputError: other images than the prompt's.
    """
    stills = any(isinstance(shown, Image.Image) for shown in images)
    notes = [NO_PROCESSOR] if stills and processor is None else []
    shares = [seen_boxes(processor, shown.size) if isinstance(shown, Image.Image) else [WHOLE] for shown in images]
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
        grids = [[grid for grid in layout.grids if grid.image == first + tile] for tile in range(len(boxes))]
        first += len(boxes)
        if isinstance(shown, Image.Image):
            found += _still(name, shown, grids, boxes)
        else:
            clip, more = _clip(f"clip {index + 1}" if len(images) > 1 else "the clip", shown, grids[0])
            found, notes = found + clip, notes + more
    return found, notes


def _still(name: str, image: Image.Image, tiles: list[list[PatchGrid]], boxes: list[Box]) -> list[Panel]:
    if any(grid.frame for grids in tiles for grid in grids):
        raise InputError(f"{name} is a clip in the prompt, and a still was given; give a list of its frames.")
    image, boxes = _with_padding(image.convert("RGB"), boxes)
    if len(tiles) == 1 and len(tiles[0]) > 1:
        kinds = ("overview", "fine grid")
        return [Panel(f"{name}, {kinds[grid.part]}", image, (grid,), (boxes[0],)) for grid in tiles[0]]
    groups: list[list[int]] = []
    for tile, box in enumerate(boxes):
        if not groups or any(_overlap(box, boxes[other]) for other in groups[-1]):
            groups.append([])
        groups[-1].append(tile)
    made = []
    for group in groups:
        count = f", {len(group)} tiles" if len(group) > 1 else ", in one tile" if len(groups) > 1 else ""
        grids = tuple(grid for tile in group for grid in tiles[tile])
        made.append(Panel(name + count, image, grids, tuple(boxes[tile] for tile in group)))
    return made


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
    canvas = Image.new("RGB", (round(image.width * wide), round(image.height * high)), PADDING)
    canvas.paste(image, (round(-left * image.width), round(-top * image.height)))
    moved = [
        ((box[0] - left) / wide, (box[1] - top) / high, (box[2] - left) / wide, (box[3] - top) / high) for box in boxes
    ]
    return canvas, moved


def _clip(name: str, frames: Sequence[Image.Image], grids: list[PatchGrid]) -> tuple[list[Panel], list[str]]:
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
        notes.append(f"{name} has {len(frames)} frames for {count} grids; each grid is drawn over its middle frame.")
    made = []
    for index in chosen:
        frame = frames[(2 * index + 1) * len(frames) // (2 * count)].convert("RGB")
        made.append(Panel(f"{name}, frame {index + 1} of {count}", frame, (grids[index],), (WHOLE,)))
    return made, notes


def seen_part(panel: Panel) -> Image.Image:
    """Return what is seen of a panel's image, by all its grids together."""
    width, height = panel.image.size
    left, top = (min(box[side] for box in panel.boxes) for side in (0, 1))
    right, bottom = (max(box[side] for box in panel.boxes) for side in (2, 3))
    return panel.image.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))
