"""GLM-4V (GLM-4.1V): M-RoPE as in Qwen2-VL; frames of a video stand on image placeholders, between timestamps."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from sparsight.families.qwen_vl import QWEN_VL, merged_items
from sparsight.families.reading import Layouts, read


def framed_layouts(config: Any, input_ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout; none where images and videos come together, which the model itself refuses."""
    images, videos = given.get("image_grid_thw"), given.get("video_grid_thw")
    if images is not None and videos is not None:
        return (None,) * len(input_ids)
    return read(config, input_ids, merged_items(config, videos if images is None else images))


GLM4V = replace(
    QWEN_VL,
    name="glm4v",
    classes=("Glm4vForConditionalGeneration", "Glm4vModel"),
    visual_ids=("image_token_id",),
    layouts=framed_layouts,
    video=True,
    refused=("SparseVLMPlus: its prior knows one distance between tokens, M-RoPE has three",),
)
