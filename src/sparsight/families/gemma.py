"""Gemma 3 and PaliGemma 1 and 2: blocks of tokens with bidirectional attention.

Gemma 3's images have a fixed number of tokens and are one block each; five of six layers attend
within a sliding window. PaliGemma's whole prompt is one block. Private detail of transformers
touched here: `mm_tokens_per_image` of Gemma 3's config.
"""

from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch

from sparsight.counts.layout import Block
from sparsight.families.family import IMAGE_FEATURES, IMAGE_IDS, Family
from sparsight.families.reading import Layouts, lay_out, read_config_patches, repeat_block


def read_pooled(config: Any, ids: torch.Tensor, arguments: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one square of pooled patches for each image or crop."""
    del arguments
    side = isqrt(int(config.mm_tokens_per_image))
    return lay_out(config, ids, repeat_block(config, ids, [Block(side, side)]))


def read_squares(config: Any, ids: torch.Tensor, arguments: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one square of patches for each image."""
    del arguments
    patches = read_config_patches(config)
    return lay_out(
        config, ids, () if patches is None else repeat_block(config, ids, [Block(*patches)])
    )


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
