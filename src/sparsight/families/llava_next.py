"""LLaVA-NeXT (1.6) and LLaVA-OneVision: an overview and tiles of an image, or pooled frames.

The tiles make up one grid of the whole image, from which the padding is cut; the features that end
its rows stand on placeholders too. Private details of transformers touched here:
`image_grid_pinpoints`, `image_size` and `spatial_pool_stride` of configs, the number behind
`anyres_max_` in `vision_aspect_ratio`, `batch_num_images`, `select_best_resolution`, how models
pack tiles in `pack_image_features`, and that OneVision ends each video and each image among several
with one feature.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain, repeat
from math import ceil, sqrt
from typing import Any

import torch
from transformers.image_processing_utils import select_best_resolution

from sparsight.counts.layout import Block, Grid
from sparsight.families.family import BOTH_FEATURES, BOTH_IDS, IMAGE_FEATURES, IMAGE_IDS, Family
from sparsight.families.reading import Item, Layouts, config_patches, frames, read

LEAST = 1.1  # OneVision leaves grids as they are that exceed what is allowed by less than this


def read_next(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: an image's overview (part 0) and fine grid (1), or frames."""
    return read(config, ids, tile_images(config, given), _videos(config, given))


def tile_images(
    config: Any, given: Mapping[str, Any], shrink: Callable[[Grid], Grid] | None = None
) -> Iterable[Item]:
    """Yield an overview and a grid made of tiles, with row ends, for each image whose size is given.

    Args: shrink: makes the rows and columns of the grid those of its features; None leaves them.
    """
    base, sizes = config_patches(config), given.get("image_sizes")
    if base is None or sizes is None:
        return
    for height, width in sizes.tolist():
        fine = cut_padding(count_tiled(config, base, (height, width)), (height, width))
        yield Block(*base), Block(*(fine if shrink is None else shrink(fine)), row_end=1, part=1)


def count_tiled(config: Any, base: Grid, size: Grid) -> Grid:
    """Return the patches of all tiles of an image of a size in px, padding included."""
    side = config.vision_config.image_size
    height, width = select_best_resolution(size, config.image_grid_pinpoints)
    return height // side * base[0], width // side * base[1]


def cut_padding(grid: Grid, size: Grid) -> Grid:
    """Return what is left of a grid when the rows or columns that only show padding are cut off on both sides.

    Args: size: height and width in px before padding.
    """
    (rows, columns), (height, width) = grid, size
    if width / height > columns / rows:
        used = int(round(height * (columns / width), 7))
        return rows - (rows - used) // 2 * 2, columns
    used = int(round(width * (rows / height), 7))
    return rows, columns - (columns - used) // 2 * 2


def _videos(config: Any, given: Mapping[str, Any]) -> Iterable[Item]:
    clips, base = given.get("pixel_values_videos"), config_patches(config)
    pool = getattr(config, "spatial_pool_stride", None)
    if clips is None or base is None or pool is None:
        return []
    return [frames(clips.shape[1], Block(base[0] // pool, base[1] // pool))] * len(clips)


def read_onevision(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: an image's overview (part 0) and fine grid (1), or frames."""
    images = _onevision_images(config, given)
    return read(config, ids, images, _onevision_videos(config, given))


def _onevision_images(config: Any, given: Mapping[str, Any]) -> Iterable[Item]:
    base, counts = config_patches(config), given.get("batch_num_images")
    if base is None:
        return
    ratio = str(given.get("vision_aspect_ratio") or config.vision_aspect_ratio)
    most = int(ratio.removeprefix("anyres_max_")) * base[0] ** 2

    def shrink(grid: Grid) -> Grid:
        by = sqrt(grid[0] * grid[1] / most)
        return (int(grid[0] // by), int(grid[1] // by)) if by > LEAST else grid

    alone = (
        repeat(True)
        if counts is None
        else chain.from_iterable([count == 1] * count for count in counts.tolist())
    )
    for item, tiles in zip(tile_images(config, given, shrink), alone, strict=False):
        yield item if tiles else (Block(*base, after=1),)


def _onevision_videos(config: Any, given: Mapping[str, Any]) -> list[Item]:
    clips, base = given.get("pixel_values_videos"), config_patches(config)
    if clips is None or base is None:
        return []
    return [frames(clips.shape[1], Block(ceil(base[0] / 2), ceil(base[1] / 2)), after=1)] * len(
        clips
    )


LLAVA_NEXT = Family(
    name="llava-next",
    classes=("LlavaNextForConditionalGeneration", "LlavaNextModel"),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=IMAGE_FEATURES,
    layouts=read_next,
    sizes=("image_sizes",),
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
