"""Qwen2-VL and Qwen2.5-VL: M-RoPE positions, images of any size, videos as grids one behind the other."""

from collections.abc import Mapping
from typing import Any

import torch

from sparsight.families.family import Family
from sparsight.grid import Grid, Grids

SIZES = ("image_grid_thw", "video_grid_thw")


def merged_grids(config: Any, input_ids: torch.Tensor, given: Mapping[str, Any]) -> tuple[Grids | None, ...]:
    """Return each sample's grids, one for each frame, from the patch grids of a batch's images and videos.

    Args: input_ids: (B, L) int64 on the host.
    Returns: (B,) grids; None for samples whose visual tokens are not those of the next images and videos.
    """
    merge = int(config.vision_config.spatial_merge_size)
    sizes = (given.get(name) for name in SIZES)
    left = [[] if size is None else size.tolist()[::-1] for size in sizes]
    kinds = [input_ids == getattr(config, name) for name in ("image_token_id", "video_token_id")]
    rows = (torch.where(kinds[1], 1, 0)[b][(kinds[0] | kinds[1])[b]].tolist() for b in range(len(input_ids)))
    return tuple(_take(row, left, merge) for row in rows)


def _take(row: list[int], left: list[list[list[int]]], merge: int) -> Grids | None:
    """Take a sample's images (kind 0) and videos (kind 1) off what is left of the batch's."""
    found: list[Grid] = []
    at = 0
    while at < len(row):
        kind = row[at]
        if not left[kind]:
            return None
        frames, height, width = left[kind].pop()
        grid = (height // merge, width // merge)
        count = frames * grid[0] * grid[1]
        if row[at : at + count] != [kind] * count:
            return None
        found += [grid] * frames
        at += count
    return tuple(found) or None


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
    sample_grids=merged_grids,
    sizes=SIZES,
    video=True,
    refused=("SparseVLMPlus: its prior knows one distance between tokens, M-RoPE has three",),
)
