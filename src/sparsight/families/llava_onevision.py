"""LLaVA-OneVision: an overview and tiles of an image, or pooled frames of a video, around a Qwen2 text model."""

from sparsight.families.family import BOTH_FEATURES, BOTH_IDS, Family

LLAVA_ONEVISION = Family(
    name="llava-onevision",
    classes=("LlavaOnevisionForConditionalGeneration", "LlavaOnevisionModel"),
    base="model",
    decoder="language_model",
    visual_ids=BOTH_IDS,
    features=BOTH_FEATURES,
    video=True,
)
