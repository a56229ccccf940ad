"""LLaVA-1.5: a vision tower, a projector and any Llama-like text model."""

from math import isqrt
from typing import Any

from sparsight.families.family import Family
from sparsight.grid import Grid


def square_grids(config: Any) -> tuple[Grid, ...]:
    """Return the square grids that vision config and processor name; an encoder may be used at another size."""
    pixels, patch = (getattr(config.vision_config, name, None) for name in ("image_size", "patch_size"))
    sides = [pixels // patch] if isinstance(pixels, int) and isinstance(patch, int) else []
    length = getattr(config, "image_seq_length", None) or 1
    # one token says nothing: that is how models with images of many sizes fill the field
    sides += [isqrt(length)] if length > 1 and isqrt(length) ** 2 == length else []
    return tuple((side, side) for side in sides)


LLAVA = Family(
    name="llava",
    classes=("LlavaForConditionalGeneration", "LlavaModel"),
    base="model",
    decoder="language_model",
    visual_ids=("image_token_id", "image_token_index"),
    features=("pixel_values", "mm_encoder_outputs"),
    image_grids=square_grids,
    encoder="vision_tower",
    projector="multi_modal_projector",
)
