"""Gemma 3: images of a fixed number of tokens that see each other both ways, five of six layers in a sliding window."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

from sparsight.families.family import Family
from sparsight.grid import Grid


def pooled_grids(config: Any, given: Mapping[str, Any]) -> tuple[Grid, ...]:
    """Return the one square that every image is pooled to."""
    del given
    side = isqrt(int(config.mm_tokens_per_image))
    return ((side, side),)


GEMMA3 = Family(
    name="gemma3",
    classes=("Gemma3ForConditionalGeneration", "Gemma3Model"),
    base="model",
    decoder="language_model",
    visual_ids=("image_token_id", "image_token_index"),
    features=("pixel_values", "mm_encoder_outputs"),
    positions=("keep",),  # windows and blocks are those of the unpruned sequence
    image_grids=pooled_grids,
    causal=False,
)
