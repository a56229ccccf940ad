"""Mistral Small 3.1 and LightOnOCR: Pixtral images of any size, whose rows end with a text token."""

from sparsight.families.family import IMAGE_FEATURES, IMAGE_IDS, Family

MISTRAL3 = Family(
    name="mistral3",
    classes=(
        "Mistral3ForConditionalGeneration",
        "Mistral3Model",
        "LightOnOcrForConditionalGeneration",
        "LightOnOcrModel",
    ),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=IMAGE_FEATURES,
    refused=("Ministral 3 text models: their attention scales queries by position, past the rotary table",),
)
