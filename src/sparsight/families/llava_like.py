"""Families whose images are plain grids of visual tokens, one behind the other in the prompt.

Each family is one row of the table at the end, and names the function that reads its layouts: where
in its image each visual token lies. Private details of transformers touched here: fields of configs
that tell how an encoder's patches become visual tokens, and `image_sizes`.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from sparsight.counts.layout import Block
from sparsight.families.encoders import read_tower
from sparsight.families.family import BOTH_FEATURES, BOTH_IDS, IMAGE_FEATURES, IMAGE_IDS, Family
from sparsight.families.reading import (
    Item,
    Layouts,
    count_patches,
    lay_out,
    make_video,
    repeat_block,
    repeat_grid,
)


def read_plain(config: Any, ids: torch.Tensor, arguments: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one visual token for each patch, in raster order.

    LLaVA-1.5 with Pixtral's encoder takes images of any size; `image_sizes` holds their sizes.
    """
    sizes = arguments.get("image_sizes")
    patch = config.vision_config.patch_size
    if sizes is None:
        before = count_class_tokens(config, arguments)
        return lay_out(config, ids, repeat_grid(config, ids, arguments, before=before))
    grids = [Block(height // patch, width // patch) for height, width in sizes.tolist()]
    return lay_out(config, ids, [(grid,) for grid in grids])


def count_class_tokens(config: Any, arguments: Mapping[str, Any]) -> tuple[int, ...]:
    """Return how many class tokens may stand in front of an image, the likeliest number first.

    The strategy "full" keeps the class token, but an encoder may have none.
    """
    strategy = arguments.get("vision_feature_select_strategy") or getattr(
        config, "vision_feature_select_strategy", None
    )
    return (1, 0) if strategy == "full" else (0,)


def read_shuffled(config: Any, ids: torch.Tensor, arguments: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one grid for each tile; that of the whole image is last."""
    ratio = config.downsample_ratio
    return lay_out(config, ids, repeat_grid(config, ids, arguments, lambda side: int(side * ratio)))


def read_downsampled(config: Any, ids: torch.Tensor, arguments: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one grid for each tile; that of the whole image is last."""
    factor = config.downsample_factor
    return lay_out(config, ids, repeat_grid(config, ids, arguments, lambda side: side // factor))


def read_strided(config: Any, ids: torch.Tensor, arguments: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one grid for each tile; that of the whole image is first.

    Ovis2's visual tokens are mixtures of learned embeddings; the tokens that stand around an image
    are text.
    """
    stride = config.vision_config.hidden_stride
    return lay_out(config, ids, repeat_grid(config, ids, arguments, partial(_divide_up, by=stride)))


def read_pages(config: Any, ids: torch.Tensor, arguments: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one grid for each page or tile.

    Two convolutions of stride 2 merge 4 x 4 patches into one visual token.
    """
    return lay_out(config, ids, repeat_grid(config, ids, arguments, partial(_divide_up, by=4)))


def _divide_up(side: int, by: int) -> int:
    """Return side / by, rounded up."""
    return -(-side // by)


def read_merged_pixtral(config: Any, ids: torch.Tensor, arguments: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one grid of merged patches for each image; text ends rows."""
    sizes = arguments.get("image_sizes")
    side = config.vision_config.patch_size * config.spatial_merge_size
    grids = [] if sizes is None else [(h // side, w // side) for h, w in sizes.tolist()]
    return lay_out(config, ids, [(Block(*grid),) for grid in grids])


def read_idefics(config: Any, ids: torch.Tensor, arguments: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one grid for each tile; Idefics2's tokens lie nowhere."""
    resampler = getattr(config, "perceiver_config", None)
    if resampler is not None:
        queries = Block(0, 0, before=resampler.resampler_n_latents)
        return lay_out(config, ids, repeat_block(config, ids, [queries]))
    factor = config.scale_factor
    return lay_out(config, ids, repeat_grid(config, ids, arguments, lambda side: side // factor))


def read_aria(config: Any, ids: torch.Tensor, arguments: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: each image is 128 or 256 learned queries, which lie nowhere."""
    table = config.projector_patch_to_query_dict.items()
    queries = {int(patches): int(count) for patches, count in table}
    grid = count_patches(config, arguments.get("pixel_values"))
    if grid is None:
        counts = sorted(queries.values(), reverse=True)
    else:
        counts = [queries.get(grid[0] * grid[1], 0)]
    blocks = [Block(0, 0, before=count) for count in counts if count]
    return lay_out(config, ids, repeat_block(config, ids, blocks))


def read_video_llava(config: Any, ids: torch.Tensor, arguments: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: one grid for each image and frame, behind its class token."""
    pixels = "pixel_values_images" if arguments.get("pixel_values") is None else "pixel_values"
    before = count_class_tokens(config, arguments)
    images = repeat_grid(config, ids, arguments, before=before, pixels=pixels)
    return lay_out(config, ids, images, _make_clips(config, arguments.get("pixel_values_videos")))


def _make_clips(config: Any, clips: torch.Tensor | None) -> list[Item]:
    """Return the videos in `clips` (videos, frames, 3, H, W)."""
    grid = count_patches(config, clips)
    if clips is None or grid is None:
        return []
    return [make_video(clips.shape[1], Block(*grid, before=1))] * len(clips)


def _family(name: str, classes: tuple[str, ...], layouts: Any, **others: Any) -> Family:
    """Return a family that has its parts where LLaVA has them.

    Args:
        name: of the family.
        classes: names of its model classes.
        layouts: reads the layouts of a batch.
        others: fields of `Family` that differ from LLaVA's, or that LLaVA does not set.
    """
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
    image_encoder=read_tower,
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
