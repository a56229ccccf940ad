"""LLaVA-NeXT (1.6): an overview and tiles of an image; the features that end its rows stand on placeholders too.

The tiles make up one grid of the whole image, from which the padding is cut. Private details of
transformers touched
here: `image_grid_pinpoints`, `image_size` and `spatial_pool_stride` of configs,
`select_best_resolution`, and how models pack tiles in `pack_image_features`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from transformers.image_processing_utils import select_best_resolution

from sparsight.counts.layout import Block, Grid
from sparsight.families.family import BOTH_FEATURES, BOTH_IDS, IMAGE_FEATURES, IMAGE_IDS, Family
from sparsight.families.reading import Item, Layouts, config_patches, frames, read


def next_layouts(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: of an image an overview (part 0) and a fine grid (part 1), of a video its frames."""
    return read(config, ids, tiled_images(config, given), _videos(config, given))


def tiled_images(
    config: Any, given: Mapping[str, Any], shrink: Callable[[Grid], Grid] | None = None
) -> Iterable[Item]:
    """Yield an overview and a grid made of tiles, with row ends, for each image whose size is given.

    Args: shrink: makes the rows and columns of the grid those of its features; None leaves them.
    """
    base, sizes = config_patches(config), given.get("image_sizes")
    if base is None or sizes is None:
        return
    for height, width in sizes.tolist():
        fine = unpadded(tiled(config, base, (height, width)), (height, width))
        yield Block(*base), Block(*(fine if shrink is None else shrink(fine)), row_end=1, part=1)


def tiled(config: Any, base: Grid, size: Grid) -> Grid:
    """Return the patches of all tiles of an image of a size in px, padding included."""
    side = config.vision_config.image_size
    height, width = select_best_resolution(size, config.image_grid_pinpoints)
    return height // side * base[0], width // side * base[1]


def unpadded(grid: Grid, size: Grid) -> Grid:
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


LLAVA_NEXT = Family(
    name="llava-next",
    classes=("LlavaNextForConditionalGeneration", "LlavaNextModel"),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=IMAGE_FEATURES,
    layouts=next_layouts,
    sizes=("image_sizes",),
)

LLAVA_NEXT_VIDEO = Family(
    name="llava-next-video",
    classes=("LlavaNextVideoForConditionalGeneration", "LlavaNextVideoModel"),
    base="model",
    decoder="language_model",
    visual_ids=BOTH_IDS,
    features=BOTH_FEATURES,
    layouts=next_layouts,
    sizes=("image_sizes",),
    video=True,
)
