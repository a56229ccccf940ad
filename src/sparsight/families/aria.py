"""Aria: 128 or 256 visual tokens an image, asked for by learned queries, around a mixture of experts."""

from sparsight.families.family import IMAGE_FEATURES, IMAGE_IDS, Family

ARIA = Family(
    name="aria",
    classes=("AriaForConditionalGeneration", "AriaModel"),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=IMAGE_FEATURES,
)
