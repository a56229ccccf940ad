"""LLaVA-NeXT (1.6) and LLaVA-OneVision: an overview and tiles of each image, or pooled frames.

The tiles make up one fine grid of the whole image, from which the padding is cut; each of its rows
ends with one more visual token. Private details of transformers touched here:
`image_grid_pinpoints`, `image_size` and `spatial_pool_stride` of configs, the number behind
`anyres_max_` in `vision_aspect_ratio`, `image_sizes`, `batch_num_images`, `select_best_resolution`,
how models pack tiles in `pack_image_features`, and that OneVision ends each video, and each image
if a sample has several, with one visual token.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain, repeat
from math import ceil, sqrt
from typing import Any

import torch
from transformers.image_processing_utils import select_best_resolution

from sparsight.counts.layout import Block, Grid
from sparsight.families.encoders import ImageEncoder, read_tower
from sparsight.families.family import BOTH_FEATURES, BOTH_IDS, IMAGE_FEATURES, IMAGE_IDS, Family
from sparsight.families.reading import Item, Layouts, lay_out, make_video, read_config_patches

LEAST_SHRINK = 1.1  # OneVision shrinks a grid only if its sides exceed the maximum by this factor


def read_next(config: Any, ids: torch.Tensor, arguments: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: an image's overview (part 0) and fine grid (1), or frames."""
    return lay_out(config, ids, tile_images(config, arguments), _make_videos(config, arguments))


def tile_images(
    config: Any, arguments: Mapping[str, Any], shrink: Callable[[Grid], Grid] | None = None
) -> Iterable[Item]:
    """Yield overview and fine grid, with row ends, of each image whose size is given.

    Args:
        config: of the base model.
        arguments: of the base model, by name.
        shrink: takes rows and columns of a fine grid and returns those of its visual tokens; None
            if they are equal.
    """
    base, sizes = read_config_patches(config), arguments.get("image_sizes")
    if base is None or sizes is None:
        return
    for height, width in sizes.tolist():
        tiled = count_tiled(config, base, (height, width))
        tiles = tiled[0] // base[0] * (tiled[1] // base[1])
        fine = cut_padding(tiled, (height, width))
        size = fine if shrink is None else shrink(fine)
        yield Block(*base), Block(*size, row_end=1, part=1, tiles=tiles)


def count_tiled(config: Any, base: Grid, size: Grid) -> Grid:
    """Return rows and columns of the patches of all tiles of an image, padding included.

    Args:
        config: of the base model.
        base: rows and columns of the patches of one tile.
        size: height and width of the image in px.
    """
    side = config.vision_config.image_size
    height, width = select_best_resolution(size, config.image_grid_pinpoints)
    return height // side * base[0], width // side * base[1]


def cut_padding(grid: Grid, size: Grid) -> Grid:
    """Return a grid without the rows or columns on both sides that show only padding.

    Args:
        grid: rows and columns of the padded image.
        size: height and width in px of the image before padding.
    """
    (rows, columns), (height, width) = grid, size
    if width / height > columns / rows:
        used = int(round(height * (columns / width), 7))
        return rows - (rows - used) // 2 * 2, columns
    used = int(round(width * (rows / height), 7))
    return rows, columns - (columns - used) // 2 * 2


def read_tiled(config: Any) -> ImageEncoder:
    """Return how LLaVA-NeXT's image encoder is built; its tiles are cut and put together.

    Args: config: of the base model.
    Raises: UnsupportedError: as `read_tower`.
    """
    return replace(read_tower(config), places=partial(list_places, config))


def list_places(config: Any, sizes: torch.Tensor) -> torch.Tensor:
    """Return which patch of the tiles each visual token of a call's images stands for.

    The patches of all tiles are counted in the order in which they are encoded: of each image the
    overview first. A row end stands for the last patch of its row.

    Args:
        config: of the base model.
        sizes: (I, 2) int64, height and width of each image in px.
    Returns: (T,) int64.
    """
    base = read_config_patches(config)
    if base is None:
        return torch.zeros(0, dtype=torch.int64)
    places, first = [], 0
    for height, width in sizes.tolist():
        rows, columns = count_tiled(config, base, (height, width))
        fine = torch.arange(rows * columns).view(rows // base[0], columns // base[1], *base)
        fine = fine.transpose(1, 2).reshape(rows, columns)  # tiles side by side
        kept = cut_padding((rows, columns), (height, width))
        above, before = (rows - kept[0]) // 2, (columns - kept[1]) // 2
        fine = fine[above : rows - above, before : columns - before]
        fine = torch.cat([fine, fine[:, -1:]], dim=1)
        overview = torch.arange(base[0] * base[1])
        places += [overview + first, fine.flatten() + first + len(overview)]
        first += len(overview) + rows * columns
    return torch.cat(places)


def _make_videos(config: Any, arguments: Mapping[str, Any]) -> Iterable[Item]:
    """Return the videos of a batch, whose frames are pooled with a stride."""
    clips, base = arguments.get("pixel_values_videos"), read_config_patches(config)
    pool = getattr(config, "spatial_pool_stride", None)
    if clips is None or base is None or pool is None:
        return []
    return [make_video(clips.shape[1], Block(base[0] // pool, base[1] // pool))] * len(clips)


def read_onevision(config: Any, ids: torch.Tensor, arguments: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: an image's overview (part 0) and fine grid (1), or frames."""
    images = _make_onevision_images(config, arguments)
    return lay_out(config, ids, images, _make_onevision_videos(config, arguments))


def _make_onevision_images(config: Any, arguments: Mapping[str, Any]) -> Iterable[Item]:
    """Yield the images of a batch: with tiles only where a sample has one image."""
    base, counts = read_config_patches(config), arguments.get("batch_num_images")
    if base is None:
        return
    ratio = str(arguments.get("vision_aspect_ratio") or config.vision_aspect_ratio)
    most = int(ratio.removeprefix("anyres_max_")) * base[0] ** 2

    def shrink(grid: Grid) -> Grid:
        factor = sqrt(grid[0] * grid[1] / most)
        if factor <= LEAST_SHRINK:
            return grid
        return int(grid[0] // factor), int(grid[1] // factor)

    is_alone: Iterable[bool] = repeat(True)  # for each image, whether its sample has no other
    if counts is not None:
        is_alone = chain.from_iterable([count == 1] * count for count in counts.tolist())
    for item, tiled in zip(tile_images(config, arguments, shrink), is_alone, strict=False):
        yield item if tiled else (Block(*base, after=1),)


def _make_onevision_videos(config: Any, arguments: Mapping[str, Any]) -> list[Item]:
    """Return the videos of a batch: frames pooled by 2, and one token behind the last."""
    clips, base = arguments.get("pixel_values_videos"), read_config_patches(config)
    if clips is None or base is None:
        return []
    frame = Block(ceil(base[0] / 2), ceil(base[1] / 2))
    return [make_video(clips.shape[1], frame, after=1)] * len(clips)


LLAVA_NEXT = Family(
    name="llava-next",
    classes=("LlavaNextForConditionalGeneration", "LlavaNextModel"),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=IMAGE_FEATURES,
    layouts=read_next,
    sizes=("image_sizes",),
    projector="multi_modal_projector",
    image_encoder=read_tiled,
)

LLAVA_NEXT_VIDEO = Family(
    name="llava-next-video",
    classes=("LlavaNextVideoForConditionalGeneration", "LlavaNextVideoModel"),
    base="model",
    decoder="language_model",
    visual_ids=BOTH_IDS,
    features=BOTH_FEATURES,
    layouts=read_next,
    sizes=("image_sizes",),
    video=True,
)

LLAVA_ONEVISION = Family(
    name="llava-onevision",
    classes=("LlavaOnevisionForConditionalGeneration", "LlavaOnevisionModel"),
    base="model",
    decoder="language_model",
    visual_ids=BOTH_IDS,
    features=BOTH_FEATURES,
    layouts=read_onevision,
    sizes=("image_sizes", "batch_num_images"),
    video=True,
)
