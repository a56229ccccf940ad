"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and GLM-4V: M-RoPE positions, and images of any size.

Videos are grids one behind the other. Qwen3-VL adds features to its first layers (DeepStack), and
its frames stand apart between timestamps; so do GLM-4V's, on image placeholders.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from sparsight.counts.layout import Block
from sparsight.families.family import Family
from sparsight.families.reading import Item, Layouts, frames, read

SIZES = ("image_grid_thw", "video_grid_thw")


def read_merged(config: Any, input_ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: a grid of merged patches for each image and each frame."""
    images, videos = (merged_items(config, given.get(name)) for name in SIZES)
    return read(config, input_ids, images, videos)


def read_framed(config: Any, input_ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout; None where images and videos come together.

    The model itself refuses images and videos in one call.
    """
    images, videos = given.get("image_grid_thw"), given.get("video_grid_thw")
    if images is not None and videos is not None:
        return (None,) * len(input_ids)
    return read(config, input_ids, merged_items(config, videos if images is None else images))


def merged_items(config: Any, sizes: torch.Tensor | None) -> list[Item]:
    """Return images or videos of known sizes.

    Args: sizes: (I, 3) int64, frames, rows and columns of patches; None for no image.
    """
    if sizes is None:
        return []
    merge = int(config.vision_config.spatial_merge_size)
    return [
        frames(count, Block(height // merge, width // merge))
        for count, height, width in sizes.tolist()
    ]


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
    fixed_positions="tokens of an image share rows and columns, so there is no next number",
    rotary_axes=3,
    layouts=read_merged,
    sizes=SIZES,
    video=True,
)
QWEN3_VL = replace(
    QWEN_VL,
    name="qwen3-vl",
    classes=(
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLModel",
        "Qwen3VLMoeForConditionalGeneration",
        "Qwen3VLMoeModel",
    ),
    deepstack="_deepstack_process",
)
GLM4V = replace(
    QWEN_VL,
    name="glm4v",
    classes=("Glm4vForConditionalGeneration", "Glm4vModel"),
    visual_ids=("image_token_id",),
    layouts=read_framed,
)
