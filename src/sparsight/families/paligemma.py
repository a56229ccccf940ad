"""PaliGemma 1 and 2: one image, then text; the whole prompt sees itself both ways."""

from collections.abc import Mapping
from typing import Any

import torch

from sparsight.counts.layout import Block
from sparsight.families.family import Family
from sparsight.families.reading import Layouts, alike, config_patches, read


def paligemma_layouts(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one square of patches an image."""
    del given
    patches = config_patches(config)
    return read(config, ids, () if patches is None else alike(config, ids, [Block(*patches)]))


PALIGEMMA = Family(
    name="paligemma",
    classes=("PaliGemmaForConditionalGeneration", "PaliGemmaModel"),
    base="model",
    decoder="language_model",
    visual_ids=("image_token_id", "image_token_index"),
    features=("pixel_values", "mm_encoder_outputs"),
    positions=("keep",),  # masks are those of the unpruned sequence
    layouts=paligemma_layouts,
    causal=False,
)
