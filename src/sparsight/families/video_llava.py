"""Video-LLaVA: images and videos through encoders of their own, each frame with its class token."""

from sparsight.families.family import BOTH_FEATURES, BOTH_IDS, Family
from sparsight.families.llava import square_grids

VIDEO_LLAVA = Family(
    name="video-llava",
    classes=("VideoLlavaForConditionalGeneration", "VideoLlavaModel"),
    base="model",
    decoder="language_model",
    visual_ids=BOTH_IDS,
    features=("pixel_values_images", *BOTH_FEATURES),
    image_grids=square_grids,
    video=True,
)
