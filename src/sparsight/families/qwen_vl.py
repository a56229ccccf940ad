"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and GLM-4V: M-RoPE positions, and images of any size.

A video is one grid for each frame. Qwen3-VL adds image features after its first layers too
(DeepStack), and writes a timestamp in front of each frame. GLM-4V does the latter as well, and its
videos stand on image placeholders. Private details of transformers touched here: `image_grid_thw`,
`video_grid_thw`, `spatial_merge_size` of vision configs and `_deepstack_process` of text decoders.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from sparsight.counts.layout import Block
from sparsight.families.encoders import read_merging
from sparsight.families.family import Family
from sparsight.families.reading import Item, Layouts, lay_out, make_video

SIZES = ("image_grid_thw", "video_grid_thw")


def read_merged(config: Any, input_ids: torch.Tensor, arguments: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: a grid of merged patches for each image and each frame."""
    images = make_items(config, arguments.get("image_grid_thw"))
    videos = make_items(config, arguments.get("video_grid_thw"))
    return lay_out(config, input_ids, images, videos)


def read_framed(config: Any, input_ids: torch.Tensor, arguments: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout, for models whose videos stand on image placeholders.

    Layouts are None if a call brings both images and videos, which the model itself refuses.
    """
    images, videos = arguments.get("image_grid_thw"), arguments.get("video_grid_thw")
    if images is not None and videos is not None:
        return (None,) * len(input_ids)
    return lay_out(config, input_ids, make_items(config, videos if images is None else images))


def make_items(config: Any, sizes: torch.Tensor | None) -> list[Item]:
    """Return images or videos of given sizes.

    Args:
        config: of the base model.
        sizes: (I, 3) int64, frames, rows and columns of patches of each; None if there are none.
    """
    if sizes is None:
        return []
    merge = int(config.vision_config.spatial_merge_size)
    return [
        make_video(count, Block(height // merge, width // merge))
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
    image_encoder=read_merging,
    space="features",
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
    mixed=False,
    visual_ids=("image_token_id",),
    layouts=read_framed,
    image_encoder=None,
    space="tokens",
)
