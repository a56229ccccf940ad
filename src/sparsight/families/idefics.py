"""Idefics2, Idefics3 and SmolVLM: the decoder is called `text_model`, and tiles are named by text between them."""

from sparsight.families.family import IMAGE_FEATURES, IMAGE_IDS, Family

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
)
