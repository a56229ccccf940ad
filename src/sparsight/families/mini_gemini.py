"""Mini-Gemini, whose model is ours: a LLaVA with a second encoder, and tiles in the HD models.

Nothing of the model is imported here. Its first encoder and the mining are parts of `vision_tower`,
which encodes tiles in the order of their visual tokens. Private details of transformers touched
here: `image_size` and `patch_size` of CLIP's config.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from sparsight.counts.layout import Block
from sparsight.families.encoders import ImageEncoder, read_tower
from sparsight.families.family import IMAGE_IDS, Family
from sparsight.families.reading import Layouts, lay_out, read_config_patches, repeat_block


def read_tiles(config: Any, ids: torch.Tensor, arguments: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one grid for each tile; that of the whole image is first."""
    del arguments
    patches = read_config_patches(config)
    blocks = () if patches is None else (Block(*patches),)
    return lay_out(config, ids, repeat_block(config, ids, blocks))


def read_mined(config: Any) -> ImageEncoder:
    """Return how Mini-Gemini's first image encoder is built.

    What the projector is given comes from both encoders, so that it is no feature of CLIP's, and no
    patch may be merged before the second one is asked.

    Args: config: of the base model.
    Raises: UnsupportedError: as `read_tower`.
    """
    plain = read_tower(config)
    return replace(
        plain,
        blocks=f"clip.{plain.blocks}",
        kind="mini_gemini",
        second=None,
        features="mining",
    )


MINI_GEMINI = Family(
    name="mini-gemini",
    classes=("MiniGeminiForConditionalGeneration", "MiniGeminiModel"),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=("pixel_values", "high_res_pixel_values", "mm_encoder_outputs"),
    layouts=read_tiles,
    projector="multi_modal_projector",
    image_encoder=read_mined,
)
