"""Gemma 3: images of a fixed number of tokens that see each other both ways, five of six layers in a sliding window."""

from math import isqrt

from sparsight.families.family import Family, same_square

GEMMA3 = Family(
    name="gemma3",
    classes=("Gemma3ForConditionalGeneration", "Gemma3Model"),
    base="model",
    decoder="language_model",
    visual_ids=("image_token_id", "image_token_index"),
    features=("pixel_values", "mm_encoder_outputs"),
    positions=("keep",),  # windows and blocks are those of the unpruned sequence
    image_grids=same_square(lambda config: isqrt(int(config.mm_tokens_per_image))),
    causal=False,
)
