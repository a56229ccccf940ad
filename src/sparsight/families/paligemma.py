"""PaliGemma 1 and 2: one image, then text; the whole prompt sees itself both ways."""

from collections.abc import Mapping
from typing import Any

from sparsight.families.family import Family
from sparsight.grid import Grid


def patch_grids(config: Any, given: Mapping[str, Any]) -> tuple[Grid, ...]:
    """Return the one square of patches that every image has."""
    del given
    side = config.vision_config.image_size // config.vision_config.patch_size
    return ((side, side),)


PALIGEMMA = Family(
    name="paligemma",
    classes=("PaliGemmaForConditionalGeneration", "PaliGemmaModel"),
    base="model",
    decoder="language_model",
    visual_ids=("image_token_id", "image_token_index"),
    features=("pixel_values", "mm_encoder_outputs"),
    positions=("keep",),  # masks are those of the unpruned sequence
    image_grids=patch_grids,
    causal=False,
)
