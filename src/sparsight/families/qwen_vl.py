"""Qwen2-VL and Qwen2.5-VL: M-RoPE positions, images of any size, videos as grids one behind the other."""

from collections.abc import Mapping
from typing import Any

import torch

from sparsight.counts.layout import Block
from sparsight.families.family import Family
from sparsight.families.reading import Item, Layouts, frames, read

SIZES = ("image_grid_thw", "video_grid_thw")


def merged_layouts(config: Any, input_ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one grid of merged patches for each image, and for each frame of a video."""
    images, videos = (merged_items(config, given.get(name)) for name in SIZES)
    return read(config, input_ids, images, videos)


def merged_items(config: Any, sizes: torch.Tensor | None) -> list[Item]:
    """Return images or videos of known sizes.

    Args: sizes: (I, 3) int64, frames, rows and columns of patches.
    """
    merge = int(config.vision_config.spatial_merge_size)
    found = [] if sizes is None else sizes.tolist()
    return [frames(count, Block(height // merge, width // merge)) for count, height, width in found]


QWEN_VL = Family(
    name="qwen-vl",
    classes=(
        "Qwen2VLForConditionalGeneration",
        "Qwen2VLModel",
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen2_5_VLModel",
    ),
    base="model",
    decoder="language_model",
    visual_ids=("image_token_id", "video_token_id"),
    features=("pixel_values", "pixel_values_videos", "mm_encoder_outputs"),
    positions=("keep",),  # an image's tokens share rows and columns: there is no next number
    layouts=merged_layouts,
    sizes=SIZES,
    video=True,
    refused=("SparseVLMPlus: its prior knows one distance between tokens, M-RoPE has three",),
)
