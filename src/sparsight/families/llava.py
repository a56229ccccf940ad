"""LLaVA-1.5: a vision tower, a projector and any Llama-like text model; with Pixtral's tower, images of any size."""

from collections.abc import Mapping
from typing import Any

import torch

from sparsight.counts.layout import Block
from sparsight.families.family import IMAGE_FEATURES, IMAGE_IDS, Family
from sparsight.families.reading import Layouts, read, square_images


def llava_layouts(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: images that are one grid of patches each, in raster order."""
    sizes, patch = given.get("image_sizes"), config.vision_config.patch_size
    if sizes is not None:
        return read(
            config,
            ids,
            [(Block(height // patch, width // patch),) for height, width in sizes.tolist()],
        )
    return read(config, ids, square_images(config, ids, given, before=class_tokens(config, given)))


def class_tokens(config: Any, given: Mapping[str, Any]) -> tuple[int, ...]:
    """Return how many class tokens may stand in front of an image; encoders that have none keep all they have too."""
    strategy = given.get("vision_feature_select_strategy") or getattr(
        config, "vision_feature_select_strategy", None
    )
    return (1, 0) if strategy == "full" else (0,)


LLAVA = Family(
    name="llava",
    classes=("LlavaForConditionalGeneration", "LlavaModel"),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=IMAGE_FEATURES,
    layouts=llava_layouts,
    sizes=("image_sizes",),
    encoder="vision_tower",
    projector="multi_modal_projector",
)
