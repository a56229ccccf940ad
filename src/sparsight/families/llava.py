"""LLaVA-1.5: a vision tower, a projector and any Llama-like text model."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch

from sparsight.families.family import IMAGE_FEATURES, IMAGE_IDS, Family
from sparsight.grid import Grid


def square_grids(config: Any, given: Mapping[str, Any]) -> tuple[Grid, ...]:
    """Return the grids that images may have: what they show themselves, else what vision config and processor name."""
    pixels, features = given.get("pixel_values"), (given.get("mm_encoder_outputs") or {})
    if given.get("pixel_values_videos") is not None or features.get("video") is not None:
        return ()  # frames may be pooled, or hold a class token
    patch = getattr(config.vision_config, "patch_size", None)
    if isinstance(pixels, torch.Tensor) and isinstance(patch, int) and min(pixels.shape[-2:]) >= patch:
        return ((pixels.shape[-2] // patch, pixels.shape[-1] // patch),)
    images = getattr(features.get("image"), "pooler_output", None)
    lengths = set() if images is None else {len(image) for image in images}  # (I, V, D), or a list of (V, D)
    side = getattr(config.vision_config, "image_size", None)
    if not lengths:
        lengths = {(side // patch) ** 2} if isinstance(side, int) and isinstance(patch, int) else set()
    # an encoder may be used at another size; one token says nothing, as models with images of many sizes name it
    lengths.add(getattr(config, "image_seq_length", None) or 1)
    return tuple((isqrt(n), isqrt(n)) for n in sorted(lengths) if n > 1 and isqrt(n) ** 2 == n)


LLAVA = Family(
    name="llava",
    classes=("LlavaForConditionalGeneration", "LlavaModel"),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=IMAGE_FEATURES,
    image_grids=square_grids,
    encoder="vision_tower",
    projector="multi_modal_projector",
)
