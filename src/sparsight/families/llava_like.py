"""Families whose images are plain grids of visual tokens, one behind the other in the prompt.

Each row of the table below is one family; each reader says where its visual tokens lie.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from sparsight.counts.layout import Block
from sparsight.families.family import BOTH_FEATURES, BOTH_IDS, IMAGE_FEATURES, IMAGE_IDS, Family
from sparsight.families.reading import (
    Item,
    Layouts,
    alike,
    frames,
    patches_of,
    read,
    square_images,
)


def read_plain(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one visual token a patch, in raster order.

    LLaVA-1.5 with Pixtral's tower takes images of any size, which `image_sizes` tells.
    """
    sizes, patch = given.get("image_sizes"), config.vision_config.patch_size
    if sizes is None:
        before = count_class_tokens(config, given)
        return read(config, ids, square_images(config, ids, given, before=before))
    grids = [Block(height // patch, width // patch) for height, width in sizes.tolist()]
    return read(config, ids, [(grid,) for grid in grids])


def count_class_tokens(config: Any, given: Mapping[str, Any]) -> tuple[int, ...]:
    """Return how many class tokens may stand in front of an image, the likeliest number first.

    An encoder without class token has none to keep, whatever the strategy says.
    """
    strategy = given.get("vision_feature_select_strategy") or getattr(
        config, "vision_feature_select_strategy", None
    )
    return (1, 0) if strategy == "full" else (0,)


def read_shuffled(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one grid a tile; the tile that shows the whole image is last."""
    ratio = config.downsample_ratio
    return read(config, ids, square_images(config, ids, given, lambda side: int(side * ratio)))


def read_downsampled(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one grid a tile; the tile that shows the whole image is last."""
    factor = config.downsample_factor
    return read(config, ids, square_images(config, ids, given, lambda side: side // factor))


def read_strided(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one grid a tile; the tile that shows the whole image is first.

    Ovis2's visual tokens are mixtures of learned visual words; the words that frame an image are
    text.
    """
    stride = config.vision_config.hidden_stride
    return read(config, ids, square_images(config, ids, given, partial(_ceil_div, by=stride)))


def read_pages(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one grid a page or tile, each of 4 x 4 merged patches a token.

    Two convolutions of stride 2 merge the patches.
    """
    return read(config, ids, square_images(config, ids, given, partial(_ceil_div, by=4)))


def _ceil_div(side: int, by: int) -> int:
    return -(-side // by)


def read_merged_pixtral(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one grid of merged patches an image; rows end with text."""
    sizes = given.get("image_sizes")
    side = config.vision_config.patch_size * config.spatial_merge_size
    grids = [] if sizes is None else [(h // side, w // side) for h, w in sizes.tolist()]
    return read(config, ids, [(Block(*grid),) for grid in grids])


def read_idefics(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one grid a tile; for Idefics2, tokens that lie nowhere."""
    resampler = getattr(config, "perceiver_config", None)
    if resampler is not None:
        queries = Block(0, 0, before=resampler.resampler_n_latents)
        return read(config, ids, alike(config, ids, [queries]))
    factor = config.scale_factor
    return read(config, ids, square_images(config, ids, given, lambda side: side // factor))


def read_aria(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: 128 or 256 learned queries an image, which lie nowhere."""
    table = config.projector_patch_to_query_dict.items()
    queries = {int(patches): int(count) for patches, count in table}
    grid = patches_of(config, given.get("pixel_values"))
    if grid is None:
        counts = sorted(queries.values(), reverse=True)
    else:
        counts = [queries.get(grid[0] * grid[1], 0)]
    blocks = [Block(0, 0, before=count) for count in counts if count]
    return read(config, ids, alike(config, ids, blocks))


def read_video_llava(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: images of one grid, and frames, each behind its class token."""
    pixels = "pixel_values_images" if given.get("pixel_values") is None else "pixel_values"
    before = count_class_tokens(config, given)
    images = square_images(config, ids, given, before=before, pixels=pixels)
    return read(config, ids, images, _clips(config, given.get("pixel_values_videos")))


def _clips(config: Any, clips: torch.Tensor | None) -> list[Item]:
    grid = patches_of(config, clips)
    if clips is None or grid is None:
        return []
    return [frames(clips.shape[1], Block(*grid, before=1))] * len(clips)


def _family(name: str, classes: tuple[str, ...], layouts: Any, **others: Any) -> Family:
    """Return a family of LLaVA's shape; `others` are the fields that differ."""
    common: dict[str, Any] = {
        "base": "model",
        "decoder": "language_model",
        "visual_ids": IMAGE_IDS,
        "features": IMAGE_FEATURES,
    }
    return Family(name=name, classes=classes, layouts=layouts, **{**common, **others})


LLAVA = _family(
    "llava",
    ("LlavaForConditionalGeneration", "LlavaModel"),
    read_plain,
    sizes=("image_sizes",),
    encoder="vision_tower",
    projector="multi_modal_projector",
)
VIPLLAVA = _family(  # features of several encoder layers; users point by drawing on the image
    "vipllava", ("VipLlavaForConditionalGeneration", "VipLlavaModel"), read_plain
)
VIDEO_LLAVA = _family(
    "video-llava",
    ("VideoLlavaForConditionalGeneration", "VideoLlavaModel"),
    read_video_llava,
    visual_ids=BOTH_IDS,
    features=("pixel_values_images", *BOTH_FEATURES),
    video=True,
)
INTERNVL = _family(
    "internvl",
    (
        "InternVLForConditionalGeneration",
        "InternVLModel",
        "QianfanOCRForConditionalGeneration",
        "QianfanOCRModel",
    ),
    read_shuffled,
)
IDEFICS = _family(  # the decoder is called text_model, and text between tiles names them
    "idefics",
    (
        "Idefics3ForConditionalGeneration",
        "Idefics3Model",
        "SmolVLMForConditionalGeneration",
        "SmolVLMModel",
        "Idefics2ForConditionalGeneration",
        "Idefics2Model",
    ),
    read_idefics,
    decoder="text_model",
    features=(*IMAGE_FEATURES, "image_hidden_states"),
    resampler="perceiver_config",
)
MISTRAL3 = _family(
    "mistral3",
    (
        "Mistral3ForConditionalGeneration",
        "Mistral3Model",
        "LightOnOcrForConditionalGeneration",
        "LightOnOcrModel",
    ),
    read_merged_pixtral,
    sizes=("image_sizes",),
)
COHERE_VISION = _family(
    "cohere-vision",
    (
        "AyaVisionForConditionalGeneration",
        "AyaVisionModel",
        "Cohere2VisionForConditionalGeneration",
        "Cohere2VisionModel",
    ),
    read_downsampled,
)
OVIS2 = _family("ovis2", ("Ovis2ForConditionalGeneration", "Ovis2Model"), read_strided)
GOT_OCR2 = _family("got-ocr2", ("GotOcr2ForConditionalGeneration", "GotOcr2Model"), read_pages)
DEEPSEEK_VL = _family(
    "deepseek-vl", ("DeepseekVLForConditionalGeneration", "DeepseekVLModel"), read_plain
)
JANUS = _family("janus", ("JanusForConditionalGeneration", "JanusModel"), read_plain)
ARIA = _family(  # around a mixture of experts
    "aria",
    ("AriaForConditionalGeneration", "AriaModel"),
    read_aria,
    resampler="projector_patch_to_query_dict",
)
