"""Lays the grids of a prompt's visual tokens over its images.

Pure, but for asking the image processor which part of an image it shows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from typing import Any

from PIL import Image

from sparsight.counts.layout import Layout, PatchGrid
from sparsight.errors import InputError, UnsupportedError
from sparsight.picture.frames import MOST_FRAMES, describe_clip, group_frames, title_frames
from sparsight.picture.seen import WHOLE, Box, find_seen_boxes
from sparsight.picture.stills import Still, add_padding, crop_to_seen, group_tiles
from sparsight.videos import Clip, choose_middles

Shown = Image.Image | Clip  # in RGB
Find = Callable[[tuple[int, int]], list[Box]]  # of an image's size: the part that each tile shows
Tiles = Iterator[list[PatchGrid]]  # grids of each tile, in order
LEAST_SEEN = 0.015  # share of an image's width or height that can be read well enough to be drawn
NO_PROCESSOR = (
    "No processor was given: images are drawn as if all of them was seen; "
    "processor= marks what is not."
)
PART = "{} is long and thin: only what is seen of it and what lies near is drawn."
FRAMES = "Frames are drawn whole; what a video processor cuts off them is not marked."


@dataclass(frozen=True)
class Panel:
    """One image, and the grids that lie over it.

    Args:
        title: what the panel shows.
        image: whole, in RGB; with the padding that the model sees around it.
        grids: that lie over the image.
        boxes: of each grid, the part of the image that it covers, in shares of the image.
    """

    title: str
    image: Image.Image
    grids: tuple[PatchGrid, ...]
    boxes: tuple[Box, ...]


def check_drawable(layout: Layout | None) -> Layout:
    """Return the layout, if a picture can be drawn over it.

    Raises:
        UnsupportedError: the layout is not known, or no visual token is a patch.
    """
    if layout is None:
        raise UnsupportedError(
            "no picture can be drawn: where this model's visual tokens lie is not known for this "
            "prompt. Leave the picture out; `sparsight models` lists the models whose layout is "
            "known."
        )
    if not layout.grids:
        raise UnsupportedError(
            "no picture can be drawn: this model's visual tokens answer learned queries and lie "
            "nowhere in the image. Leave the picture out."
        )
    return layout


def lay_out_panels(
    layout: Layout, images: Sequence[Shown], processor: Any = None
) -> tuple[list[Panel], list[str]]:
    """Return the panels of a sample in the order of its prompt, and notes for the reader.

    Args:
        layout: of the sample, with grids.
        images: images and clips of the sample, in the order of its prompt. A clip is one video of
            the prompt, or an image for each of its frames.
        processor: of the model, asked which part of an image it shows; None for whole images.

    Raises:
        InputError: other images than those of the prompt, an image that next to nothing is seen of,
            or something that is no processor.
    """
    _check_processor(processor)
    find: Find = cache(partial(find_seen_boxes, processor))
    as_videos = _are_videos(layout, images, find)
    tiles = (_select_grids(layout, tile) for tile in range(layout.image_count))
    notes = _note_processor(images, processor, as_videos)
    panels: list[Panel] = []
    for index, shown in enumerate(images, 1):
        number = index if len(images) > 1 else None
        if isinstance(shown, Image.Image):
            name = "the image" if number is None else f"image {number}"
            made, more = _lay_out_still(_take_still(name, shown, find, tiles))
        else:
            made, more = _lay_out_clip(number, shown, tiles, None if as_videos else find)
        panels += made
        notes += more
    return panels, list(dict.fromkeys(notes))


def _note_processor(images: Sequence[Shown], processor: Any, as_videos: bool) -> list[str]:
    """Return a note on images that are drawn as if all of them was seen, if there are any."""
    stills = not as_videos or any(isinstance(shown, Image.Image) for shown in images)
    return [NO_PROCESSOR] if stills and processor is None else []


def _check_processor(processor: Any) -> None:
    if processor is not None and getattr(processor, "image_processor", None) is None:
        raise InputError(
            f"processor is of type {type(processor).__name__} and has no image_processor; give the "
            "model's processor, as AutoProcessor loads it, or None."
        )


def _are_videos(layout: Layout, images: Sequence[Shown], find: Find) -> bool:
    """Return whether clips are videos in the prompt, and not an image for each frame.

    Raises: InputError: the layout is that of other images.
    """
    as_images = as_videos = 0
    for shown in images:
        frames = [shown] if isinstance(shown, Image.Image) else shown.images
        tiles = sum(len(find(frame.size)) for frame in frames)
        as_images += tiles
        as_videos += tiles if isinstance(shown, Image.Image) else 1
    if layout.image_count == as_images:
        return False
    _check_counts(layout, len(images), as_videos)
    return True


def _take_still(name: str, image: Image.Image, find: Find, tiles: Tiles) -> Still:
    """Return an image with the next tiles."""
    boxes = find(image.size)
    return Still(name, image, boxes, list(islice(tiles, len(boxes))))


def _select_grids(layout: Layout, tile: int) -> list[PatchGrid]:
    return [grid for grid in layout.grids if grid.image == tile]


def _check_counts(layout: Layout, images: int, tiles: int) -> None:
    if tiles != layout.image_count:
        raise InputError(
            f"the prompt holds {layout.image_count} images or tiles, and the {images} given make "
            f"{tiles}; give the images of this sample in the order of its prompt, a clip as a "
            "list of frames, and processor=, which knows how images are tiled."
        )


def _check_seen(name: str, image: Image.Image, boxes: list[Box]) -> None:
    """Check that enough of an image is seen for its boxes to be read well."""
    least = min(min(box[2] - box[0], box[3] - box[1]) for box in boxes)
    if least < LEAST_SEEN:
        raise InputError(
            f"{name} cannot be drawn: of its {image.width} x {image.height} pixels, the processor "
            f"shows the model less than {100 * LEAST_SEEN:g} % of the length; crop the image, or "
            "leave the picture out."
        )


def _lay_out_still(still: Still) -> tuple[list[Panel], list[str]]:
    """Return one panel for each group of tiles that lie side by side, and notes for the reader."""
    _check_seen(still.name, still.image, still.boxes)
    if any(grid.frame for grids in still.tiles for grid in grids):
        raise InputError(
            f"{still.name} is a clip in the prompt, and a still was given; "
            "give a list of its frames."
        )
    padded = add_padding(still)
    drawn = crop_to_seen(padded)
    notes = [] if drawn is padded else [PART.format(still.name)]
    if len(drawn.tiles) == 1 and len(drawn.tiles[0]) > 1:
        return [_lay_out_grid(drawn, grid) for grid in drawn.tiles[0]], notes
    groups = group_tiles(drawn.boxes)
    return [_lay_out_group(drawn, group, len(groups)) for group in groups], notes


def _lay_out_grid(still: Still, grid: PatchGrid) -> Panel:
    """Return the panel of one of two grids that lie over the same tile."""
    kind = ("overview", "fine grid")[grid.part]
    return Panel(f"{still.name}, {kind}", still.image, (grid,), (still.boxes[0],))


def _lay_out_group(still: Still, group: list[int], groups: int) -> Panel:
    """Return the panel of one of `groups` groups of tiles."""
    title = still.name
    if len(group) > 1:
        title += f", {len(group)} tiles"
    elif groups > 1:
        title += ", in one tile"
    grids = tuple(grid for tile in group for grid in still.tiles[tile])
    return Panel(title, still.image, grids, tuple(still.boxes[tile] for tile in group))


def _lay_out_clip(
    number: int | None, clip: Clip, tiles: Tiles, find: Find | None
) -> tuple[list[Panel], list[str]]:
    """Return panels of evenly chosen frames of a clip, and notes for the reader.

    Args:
        number: of the clip among the images; None for the only one.
        clip: whose frames are drawn.
        tiles: of the prompt, from the first of this clip on.
        find: for a clip that is an image for each frame; None for one that is a video.
    """
    name = "the clip" if number is None else f"clip {number}"
    own = "" if number is None and clip.name else name  # in titles
    if not clip.frames:
        raise InputError(f"{name} has no frames; give a list of images.")
    if find is None:
        panels, notes = _lay_out_video(name, own, clip, next(tiles))
    else:
        panels, notes = _lay_out_frames(name, own, clip, (tiles, find))
    if clip.name:
        notes.append(describe_clip(clip, as_video=find is None))
    return panels, notes


def _lay_out_video(
    name: str, own: str, clip: Clip, grids: list[PatchGrid]
) -> tuple[list[Panel], list[str]]:
    """Return a panel for each grid of a video, or for evenly chosen ones."""
    count = len(grids)
    notes = [FRAMES, *_note_drawn(name, count)]
    if len(clip.frames) != count:
        notes.append(
            f"{name} has {len(clip.frames)} frames for {count} grids; "
            "each grid is drawn over its middle frame."
        )
    groups = list(group_frames(clip.frames, count))
    panels = []
    for index in choose_middles(count, MOST_FRAMES):
        frame, group = groups[index]
        title = title_frames(own, group) if clip.name else f"{own}, frame {index + 1} of {count}"
        panels.append(Panel(title, frame.image, (grids[index],), (WHOLE,)))
    return panels, notes


def _lay_out_frames(
    name: str, own: str, clip: Clip, prompt: tuple[Tiles, Find]
) -> tuple[list[Panel], list[str]]:
    """Return the panels of a clip whose frames are images of the prompt, or of some frames."""
    tiles, find = prompt
    count = len(clip.frames)
    chosen = choose_middles(count, MOST_FRAMES)
    panels: list[Panel] = []
    notes = _note_drawn(name, count)
    for index, frame in enumerate(clip.frames):
        title = title_frames(own, [frame]) if clip.name else f"{own}, frame {index + 1} of {count}"
        still = _take_still(title, frame.image, find, tiles)
        if index in chosen:
            made, more = _lay_out_still(still)
            panels += made
            notes += more
    return panels, notes


def _note_drawn(name: str, count: int) -> list[str]:
    drawn = min(count, MOST_FRAMES)
    return [f"{drawn} of {count} frames of {name} are drawn."] if drawn < count else []


def crop_to_boxes(panel: Panel) -> Image.Image:
    """Return the part of a panel's image that its grids cover together."""
    boxes = panel.boxes
    width, height = panel.image.size
    left = min(round(min(box[0] for box in boxes) * width), width - 1)
    top = min(round(min(box[1] for box in boxes) * height), height - 1)
    right = max(round(max(box[2] for box in boxes) * width), left + 1)
    bottom = max(round(max(box[3] for box in boxes) * height), top + 1)
    return panel.image.crop((left, top, right, bottom))
