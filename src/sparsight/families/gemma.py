"""Gemma 3 and PaliGemma 1 and 2: blocks of tokens that see each other both ways.

Gemma 3's images have a fixed number of tokens, and five of six layers attend within a sliding
window. PaliGemma's whole prompt is one block.
"""

from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch

from sparsight.counts.layout import Block
from sparsight.families.family import IMAGE_FEATURES, IMAGE_IDS, Family
from sparsight.families.reading import Layouts, alike, config_patches, read


def read_pooled(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one square of pooled patches an image; a crop is an image."""
    del given
    side = isqrt(int(config.mm_tokens_per_image))
    return read(config, ids, alike(config, ids, [Block(side, side)]))


def read_squares(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one square of patches an image."""
    del given
    patches = config_patches(config)
    return read(config, ids, () if patches is None else alike(config, ids, [Block(*patches)]))


GEMMA3 = Family(
    name="gemma3",
    classes=("Gemma3ForConditionalGeneration", "Gemma3Model"),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=IMAGE_FEATURES,
    fixed_positions="its windows and blocks are those of the unpruned sequence",
    layouts=read_pooled,
    causal=False,
)
PALIGEMMA = Family(
    name="paligemma",
    classes=("PaliGemmaForConditionalGeneration", "PaliGemmaModel"),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=IMAGE_FEATURES,
    fixed_positions="its masks are those of the unpruned sequence",
    layouts=read_squares,
    causal=False,
)
