"""Video-LLaVA: images and videos through encoders of their own, each frame with its class token."""

from collections.abc import Mapping
from typing import Any

import torch

from sparsight.counts.layout import Block
from sparsight.families.family import BOTH_FEATURES, BOTH_IDS, Family
from sparsight.families.llava import class_tokens
from sparsight.families.reading import Item, Layouts, frames, patches_of, read, square_images


def video_llava_layouts(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: images of one grid each, and the frames of videos behind their class tokens."""
    pixels = "pixel_values_images" if given.get("pixel_values") is None else "pixel_values"
    images = square_images(config, ids, given, before=class_tokens(config, given), pixels=pixels)
    return read(config, ids, images, _videos(config, given.get("pixel_values_videos")))


def _videos(config: Any, clips: torch.Tensor | None) -> list[Item]:
    grid = patches_of(config, clips)
    return (
        []
        if clips is None or grid is None
        else [frames(clips.shape[1], Block(*grid, before=1))] * len(clips)
    )


VIDEO_LLAVA = Family(
    name="video-llava",
    classes=("VideoLlavaForConditionalGeneration", "VideoLlavaModel"),
    base="model",
    decoder="language_model",
    visual_ids=BOTH_IDS,
    features=("pixel_values_images", *BOTH_FEATURES),
    layouts=video_llava_layouts,
    video=True,
)
