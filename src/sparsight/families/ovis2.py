"""Ovis2: visual tokens are mixtures of learned visual words; the words that frame an image are text."""

from collections.abc import Mapping
from typing import Any

import torch

from sparsight.families.family import IMAGE_FEATURES, IMAGE_IDS, Family
from sparsight.families.reading import Layouts, read, square_images


def ovis2_layouts(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one grid a tile; the one that shows the whole image comes first."""
    stride = config.vision_config.hidden_stride
    return read(config, ids, square_images(config, ids, given, lambda side: -(-side // stride)))


OVIS2 = Family(
    name="ovis2",
    classes=("Ovis2ForConditionalGeneration", "Ovis2Model"),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=IMAGE_FEATURES,
    layouts=ovis2_layouts,
)
