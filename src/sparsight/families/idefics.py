"""Idefics2, Idefics3 and SmolVLM: the decoder is called `text_model`, and tiles are named by text between them."""

from collections.abc import Mapping
from typing import Any

import torch

from sparsight.counts.layout import Block
from sparsight.families.family import IMAGE_FEATURES, IMAGE_IDS, Family
from sparsight.families.reading import Layouts, alike, read, square_images


def idefics_layouts(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one grid a tile; of Idefics2 none, as its perceiver's queries are learned."""
    perceiver = getattr(config, "perceiver_config", None)
    if perceiver is not None:
        return read(
            config, ids, alike(config, ids, [Block(0, 0, before=perceiver.resampler_n_latents)])
        )
    return read(
        config, ids, square_images(config, ids, given, lambda side: side // config.scale_factor)
    )


IDEFICS = Family(
    name="idefics",
    classes=(
        "Idefics3ForConditionalGeneration",
        "Idefics3Model",
        "SmolVLMForConditionalGeneration",
        "SmolVLMModel",
        "Idefics2ForConditionalGeneration",
        "Idefics2Model",
    ),
    base="model",
    decoder="text_model",
    visual_ids=IMAGE_IDS,
    features=(*IMAGE_FEATURES, "image_hidden_states"),
    layouts=idefics_layouts,
    refused=(
        "Uniform, Pool with Idefics2: its visual tokens answer learned queries and lie nowhere in the image",
    ),
)
