"""GLM-4V (GLM-4.1V): M-RoPE as in Qwen2-VL; frames of a video stand on image placeholders, between timestamps."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from sparsight.families.qwen_vl import QWEN_VL, merged_grids
from sparsight.grid import Grids


def framed_grids(config: Any, input_ids: torch.Tensor, given: Mapping[str, Any]) -> tuple[Grids | None, ...]:
    """Return each sample's grids; none where images and videos come together, whose placeholders are the same.

    Args: input_ids: (B, L) int64 on the host.
    """
    images, videos = given.get("image_grid_thw"), given.get("video_grid_thw")
    if images is not None and videos is not None:
        return (None,) * len(input_ids)
    return merged_grids(config, input_ids, {"image_grid_thw": videos if images is None else images})


GLM4V = replace(
    QWEN_VL,
    name="glm4v",
    classes=("Glm4vForConditionalGeneration", "Glm4vModel"),
    visual_ids=("image_token_id",),
    sample_grids=framed_grids,
    video=True,
    refused=("SparseVLMPlus: its prior knows one distance between tokens, M-RoPE has three",),
)
