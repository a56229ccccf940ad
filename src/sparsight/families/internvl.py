"""InternVL and Qianfan-OCR: images in tiles, each 256 visual tokens after its pixels were shuffled together."""

from sparsight.families.family import IMAGE_FEATURES, IMAGE_IDS, Family

INTERNVL = Family(
    name="internvl",
    classes=(
        "InternVLForConditionalGeneration",
        "InternVLModel",
        "QianfanOCRForConditionalGeneration",
        "QianfanOCRModel",
    ),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=IMAGE_FEATURES,
)
