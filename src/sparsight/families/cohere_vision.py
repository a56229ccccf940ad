"""Aya Vision and Command A Vision: images in tiles around a Cohere text model."""

from collections.abc import Mapping
from typing import Any

import torch

from sparsight.families.family import IMAGE_FEATURES, IMAGE_IDS, Family
from sparsight.families.reading import Layouts, read, square_images


def cohere_layouts(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one grid a tile; the one that shows the whole image comes last."""
    return read(
        config,
        ids,
        square_images(config, ids, given, lambda side: side // config.downsample_factor),
    )


COHERE_VISION = Family(
    name="cohere-vision",
    classes=(
        "AyaVisionForConditionalGeneration",
        "AyaVisionModel",
        "Cohere2VisionForConditionalGeneration",
        "Cohere2VisionModel",
    ),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=IMAGE_FEATURES,
    layouts=cohere_layouts,
)
