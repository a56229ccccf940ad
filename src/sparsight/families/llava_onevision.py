"""LLaVA-OneVision: an overview and tiles of an image, or pooled frames of a video, around a Qwen2 text model.

Private details of transformers touched here: those of `llava_next`, the number behind `anyres_max_`
in `vision_aspect_ratio`, `batch_num_images`, and that one feature ends each video and each image
among several.
"""

from collections.abc import Iterable, Mapping
from itertools import chain, repeat
from math import ceil, sqrt
from typing import Any

import torch

from sparsight.counts.layout import Block, Grid
from sparsight.families.family import BOTH_FEATURES, BOTH_IDS, Family
from sparsight.families.llava_next import tiled_images
from sparsight.families.reading import Item, Layouts, config_patches, frames, read

LEAST = 1.1  # grids that are larger than allowed by less are left as they are


def onevision_layouts(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: of an image an overview (part 0) and a fine grid (part 1), of a video its frames."""
    return read(config, ids, _images(config, given), _videos(config, given))


def _images(config: Any, given: Mapping[str, Any]) -> Iterable[Item]:
    base, counts = config_patches(config), given.get("batch_num_images")
    if base is None:
        return
    ratio = str(given.get("vision_aspect_ratio") or config.vision_aspect_ratio)
    most = int(ratio.removeprefix("anyres_max_")) * base[0] ** 2

    def shrunk(grid: Grid) -> Grid:
        by = sqrt(grid[0] * grid[1] / most)
        return (int(grid[0] // by), int(grid[1] // by)) if by > LEAST else grid

    alone = (
        repeat(True)
        if counts is None
        else chain.from_iterable([count == 1] * count for count in counts.tolist())
    )
    for item, tiles in zip(tiled_images(config, given, shrunk), alone, strict=False):
        yield item if tiles else (Block(*base, after=1),)


def _videos(config: Any, given: Mapping[str, Any]) -> list[Item]:
    clips, base = given.get("pixel_values_videos"), config_patches(config)
    if clips is None or base is None:
        return []
    return [frames(clips.shape[1], Block(ceil(base[0] / 2), ceil(base[1] / 2)), after=1)] * len(
        clips
    )


LLAVA_ONEVISION = Family(
    name="llava-onevision",
    classes=("LlavaOnevisionForConditionalGeneration", "LlavaOnevisionModel"),
    base="model",
    decoder="language_model",
    visual_ids=BOTH_IDS,
    features=BOTH_FEATURES,
    layouts=onevision_layouts,
    sizes=("image_sizes", "batch_num_images"),
    video=True,
)
