"""InternVL and Qianfan-OCR: images in tiles, each 256 visual tokens after its pixels were shuffled together."""

from collections.abc import Mapping
from typing import Any

import torch

from sparsight.families.family import IMAGE_FEATURES, IMAGE_IDS, Family
from sparsight.families.reading import Layouts, read, square_images


def internvl_layouts(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one grid a tile; the one that shows the whole image comes last."""
    return read(
        config,
        ids,
        square_images(config, ids, given, lambda side: int(side * config.downsample_ratio)),
    )


INTERNVL = Family(
    name="internvl",
    classes=(
        "InternVLForConditionalGeneration",
        "InternVLModel",
        "QianfanOCRForConditionalGeneration",
        "QianfanOCRModel",
    ),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=IMAGE_FEATURES,
    layouts=internvl_layouts,
)
