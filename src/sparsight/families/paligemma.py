"""PaliGemma 1 and 2: one image, then text; the whole prompt sees itself both ways."""

from sparsight.families.family import Family, same_square

PALIGEMMA = Family(
    name="paligemma",
    classes=("PaliGemmaForConditionalGeneration", "PaliGemmaModel"),
    base="model",
    decoder="language_model",
    visual_ids=("image_token_id", "image_token_index"),
    features=("pixel_values", "mm_encoder_outputs"),
    positions=("keep",),  # masks are those of the unpruned sequence
    image_grids=same_square(lambda config: config.vision_config.image_size // config.vision_config.patch_size),
    causal=False,
)
