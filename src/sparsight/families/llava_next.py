"""LLaVA-NeXT (1.6): an overview and tiles of an image; the features that end its rows stand on placeholders too."""

from sparsight.families.family import BOTH_FEATURES, BOTH_IDS, IMAGE_FEATURES, IMAGE_IDS, Family

LLAVA_NEXT = Family(
    name="llava-next",
    classes=("LlavaNextForConditionalGeneration", "LlavaNextModel"),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=IMAGE_FEATURES,
)

LLAVA_NEXT_VIDEO = Family(
    name="llava-next-video",
    classes=("LlavaNextVideoForConditionalGeneration", "LlavaNextVideoModel"),
    base="model",
    decoder="language_model",
    visual_ids=BOTH_IDS,
    features=BOTH_FEATURES,
    video=True,
)
