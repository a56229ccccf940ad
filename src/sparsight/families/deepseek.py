"""DeepSeek-VL and Janus: one visual token a patch around a Llama text model."""

from sparsight.families.family import IMAGE_FEATURES, IMAGE_IDS, Family
from sparsight.families.llava import llava_layouts

DEEPSEEK_VL = Family(
    name="deepseek-vl",
    classes=("DeepseekVLForConditionalGeneration", "DeepseekVLModel"),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=IMAGE_FEATURES,
    layouts=llava_layouts,
)

JANUS = Family(
    name="janus",
    classes=("JanusForConditionalGeneration", "JanusModel"),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=IMAGE_FEATURES,
    layouts=llava_layouts,
)
