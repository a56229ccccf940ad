"""GOT-OCR 2: pages, whole or in tiles, of 256 visual tokens each."""

from collections.abc import Mapping
from typing import Any

import torch

from sparsight.families.family import IMAGE_FEATURES, IMAGE_IDS, Family
from sparsight.families.reading import Layouts, read, square_images


def got_layouts(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one grid a page or tile; two convolutions of stride 2 merge 4 x 4 patches."""
    return read(config, ids, square_images(config, ids, given, lambda side: -(-side // 4)))


GOT_OCR2 = Family(
    name="got-ocr2",
    classes=("GotOcr2ForConditionalGeneration", "GotOcr2Model"),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=IMAGE_FEATURES,
    layouts=got_layouts,
)
