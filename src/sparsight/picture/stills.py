"""A still image and its tiles: padding is added, what is not seen of a thin image is cut off."""

from dataclasses import dataclass
from math import ceil, floor

from PIL import Image

from sparsight.counts.layout import PatchGrid
from sparsight.picture.seen import WHOLE, Box

PATCH = 6  # px of a patch's side, at least
LONGEST = 1200  # px of a panel's side, at most
PADDING = (127, 127, 127)


@dataclass(frozen=True)
class Still:
    """A still image, the part of it that each tile shows, and the grids of each tile."""

    name: str
    image: Image.Image
    boxes: list[Box]
    tiles: list[list[PatchGrid]]


def group_tiles(boxes: list[Box]) -> list[list[int]]:
    """Return neighbouring tiles in groups in which no two overlap, as an overview does."""
    groups: list[list[int]] = []
    for tile, box in enumerate(boxes):
        if not groups or any(_overlap(box, boxes[other]) for other in groups[-1]):
            groups.append([])
        groups[-1].append(tile)
    return groups


def _overlap(one: Box, other: Box) -> bool:
    """Return whether two boxes share more than their edges."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return min(across, down) > 0.05 * min(one[2] - one[0], one[3] - one[1])


def crop_to_seen(still: Still) -> Still:
    """Return the still itself, or its seen part and what lies near if patches would be too small.

    A long and thin image of which the model sees a small part would be drawn with patches of less
    than PATCH px.
    """
    image = still.image
    patches = [float(max(image.size))]  # px of the sides of patches
    for box, grids in zip(still.boxes, still.tiles, strict=True):
        for grid in grids:
            patches.append(image.width * (box[2] - box[0]) / grid.size[1])
            patches.append(image.height * (box[3] - box[1]) / grid.size[0])
    most = min(patches) * LONGEST / PATCH  # px that can be drawn with patches of PATCH px
    left, right = _choose_span(image.width, most, [(box[0], box[2]) for box in still.boxes])
    top, bottom = _choose_span(image.height, most, [(box[1], box[3]) for box in still.boxes])
    frame = (left, top, right, bottom)
    if frame == (0, 0, image.width, image.height):
        return still
    boxes = [_move_box(box, image.size, frame) for box in still.boxes]
    return Still(still.name, image.crop(frame), boxes, still.tiles)


def _choose_span(length: int, most: float, spans: list[tuple[float, float]]) -> tuple[int, int]:
    """Return start and end in px of the part of an image's side that is drawn.

    Args:
        length: of the side, px.
        most: px that can be drawn.
        spans: start and end of what is seen, in shares of the side.
    """
    first = length * min(start for start, _ in spans)
    last = length * max(end for _, end in spans)
    if not length > most > last - first:
        return 0, length
    start = min(max(0, (first + last - most) / 2), length - most)
    return floor(start), min(length, ceil(start + most))


def _move_box(box: Box, size: tuple[float, float], frame: tuple[float, float, float, float]) -> Box:
    """Return a box, in shares of an image of some size, in shares of a frame in that image."""
    left, top, right, bottom = frame
    wide = right - left
    high = bottom - top
    return (
        (box[0] * size[0] - left) / wide,
        (box[1] * size[1] - top) / high,
        (box[2] * size[0] - left) / wide,
        (box[3] * size[1] - top) / high,
    )


def add_padding(still: Still) -> Still:
    """Return a still with the padding that the model sees around it."""
    boxes = still.boxes
    left = min(0.0, *(box[0] for box in boxes))
    top = min(0.0, *(box[1] for box in boxes))
    right = max(1.0, *(box[2] for box in boxes))
    bottom = max(1.0, *(box[3] for box in boxes))
    if (left, top, right, bottom) == WHOLE:
        return still
    wide = right - left
    high = bottom - top
    image = still.image
    # a thin image may become many times as large, so it is scaled down first
    scale = 2 * LONGEST / max(image.width * wide, image.height * high)
    if scale < 1:
        image = image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        )
    canvas = Image.new("RGB", (round(image.width * wide), round(image.height * high)), PADDING)
    canvas.paste(image, (round(-left * image.width), round(-top * image.height)))
    moved = [_move_box(box, (1.0, 1.0), (left, top, right, bottom)) for box in boxes]
    return Still(still.name, canvas, moved, still.tiles)
