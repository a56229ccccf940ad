"""VipLLaVA: LLaVA-1.5 with features of several encoder layers; users point by drawing on the image."""

from sparsight.families.family import IMAGE_FEATURES, IMAGE_IDS, Family
from sparsight.families.llava import llava_layouts

VIPLLAVA = Family(
    name="vipllava",
    classes=("VipLlavaForConditionalGeneration", "VipLlavaModel"),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=IMAGE_FEATURES,
    layouts=llava_layouts,
)
