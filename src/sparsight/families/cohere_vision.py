"""Aya Vision and Command A Vision: images in tiles around a Cohere text model."""

from sparsight.families.family import IMAGE_FEATURES, IMAGE_IDS, Family

COHERE_VISION = Family(
    name="cohere-vision",
    classes=(
        "AyaVisionForConditionalGeneration",
        "AyaVisionModel",
        "Cohere2VisionForConditionalGeneration",
        "Cohere2VisionModel",
    ),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=IMAGE_FEATURES,
)
