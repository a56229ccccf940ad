"""LLaVA-1.5: a vision tower, a projector and any Llama-like text model."""

from sparsight.families.family import Family

LLAVA = Family(
    name="llava",
    classes=("LlavaForConditionalGeneration", "LlavaModel"),
    base="model",
    decoder="language_model",
    visual_ids=("image_token_id", "image_token_index"),
    features=("pixel_values", "mm_encoder_outputs"),
)
