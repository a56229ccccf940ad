"""Gemma 3: images of a fixed number of tokens that see each other both ways, five of six layers in a sliding window."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch

from sparsight.counts.layout import Block
from sparsight.families.family import Family
from sparsight.families.reading import Layouts, alike, read


def gemma3_layouts(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one square of pooled patches an image; crops of an image are images."""
    del given
    side = isqrt(int(config.mm_tokens_per_image))
    return read(config, ids, alike(config, ids, [Block(side, side)]))


GEMMA3 = Family(
    name="gemma3",
    classes=("Gemma3ForConditionalGeneration", "Gemma3Model"),
    base="model",
    decoder="language_model",
    visual_ids=("image_token_id", "image_token_index"),
    features=("pixel_values", "mm_encoder_outputs"),
    positions=("keep",),  # windows and blocks are those of the unpruned sequence
    layouts=gemma3_layouts,
    causal=False,
)
