"""Mistral Small 3.1 and LightOnOCR: Pixtral images of any size, whose rows end with a text token."""

from collections.abc import Mapping
from typing import Any

import torch

from sparsight.counts.layout import Block
from sparsight.families.family import IMAGE_FEATURES, IMAGE_IDS, Family
from sparsight.families.reading import Layouts, read


def mistral3_layouts(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one grid of merged patches an image."""
    sizes, side = (
        given.get("image_sizes"),
        config.vision_config.patch_size * config.spatial_merge_size,
    )
    images = (
        []
        if sizes is None
        else [(Block(height // side, width // side),) for height, width in sizes.tolist()]
    )
    return read(config, ids, images)


MISTRAL3 = Family(
    name="mistral3",
    classes=(
        "Mistral3ForConditionalGeneration",
        "Mistral3Model",
        "LightOnOcrForConditionalGeneration",
        "LightOnOcrModel",
    ),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=IMAGE_FEATURES,
    layouts=mistral3_layouts,
    sizes=("image_sizes",),
    refused=(
        "Ministral 3 text models: their attention scales queries by position, past the rotary table",
    ),
)
