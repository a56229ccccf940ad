"""Configs of tiny models of every family of one-dimensional positions, and their images."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf

from sparsight.models.mini_gemini import MiniGeminiConfig
from tests.support.tiny import IMAGE, OLD, PAD, VOCAB, text_config

# ids: of video placeholders, of row ends, of the first word
VIDEO = 6
BREAK = 7
FIRST = 10
# pixels: 16 patches, or 64 that are merged to 16 visual tokens
SMALL = 16
SIDE = 32
PATCH = 4
HIGH = 64  # of the second encoder of Mini-Gemini
WIDE, TALL = (
    [SMALL, 2 * SMALL],
    [2 * SMALL - 8, SMALL],
)  # sizes (height, width) of images of several tiles


@dataclass(frozen=True)
class Kind:
    """One family's tiny model.

    Args:
        config: makes the model's config.
        image: makes the arguments of the n-th image; their first dimension counts images or tiles.
        video: the same of a video.
        row: visual tokens before a row ends with a word of its own; 0 for images without row ends.
        nested: whether pixels have a dimension of samples and one of images.
    """

    config: Callable[[], Any]
    image: Callable[..., dict]
    video: Callable[..., dict] | None = None
    row: int = 0
    nested: bool = False


def vision(kind, **changes):
    """Two layers that see 8 x 8 patches."""
    settings = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
        "initializer_range": 0.3,
    }
    return kind(**{**settings, **changes})


def clip():
    return vision(hf.CLIPVisionConfig, projection_dim=32, image_size=SMALL)


def plain(random, number, tiles=1, side=SMALL):
    """Pixels of one image, or of its tiles."""
    del number
    return {
        "pixel_values": torch.randn(tiles, 3, side, side, generator=random, dtype=torch.float64)
    }


def sized_as(tiles, side):
    return functools.partial(plain, tiles=tiles, side=side)


def anyres(random, number):
    """Three tiles and the size before they were cut; the second image is a tall one."""
    return {
        "pixel_values": plain(random, number, 3)["pixel_values"][None],
        "image_sizes": sizes(number),
    }


def sizes(number):
    return torch.tensor([WIDE if number % 2 == 0 else TALL])


def clip_of(frames):
    def video(random, number):
        return {"pixel_values_videos": plain(random, number, frames)["pixel_values"][None]}

    return video


def named_images(random, number):
    """Video-LLaVA's images had a name of their own."""
    return {"pixel_values_images" if OLD else "pixel_values": plain(random, number)["pixel_values"]}


def nested(random, number):
    return {"pixel_values": plain(random, number, side=SIDE)["pixel_values"][None]}


def sized(random, number):
    """An image of 4 x 4 or 2 x 4 visual tokens, padded to the size of the largest."""
    height = SIDE if number % 2 == 0 else SIDE // 2
    pixels = plain(random, number, side=SIDE)["pixel_values"]
    pixels[:, :, height:] = 0
    return {"pixel_values": pixels, "image_sizes": torch.tensor([[height, SIDE]])}


PINPOINTS = [WIDE, [2 * SMALL, SMALL], [2 * SMALL, 2 * SMALL]]


def llava(kind, **changes):
    """A config of LLaVA's pattern around an image encoder and a text model."""

    def make():
        settings = {
            "vision_config": clip(),
            "text_config": text_config(),
            "image_token_id": IMAGE,
            **changes,
        }
        return kind(
            **{name: value() if callable(value) else value for name, value in settings.items()}
        )

    return make


def pair(random, number, tiles=1):
    """Both inputs of an image of Mini-Gemini: its tiles, and all of it in more px."""
    low = plain(random, number, tiles)["pixel_values"][None]
    high = plain(random, number, side=HIGH)["pixel_values"]
    return {"pixel_values": low, "high_res_pixel_values": high}


def mined(grid, text_config, **changes):
    """A config of Mini-Gemini with a grid of tiles, and an overview if there are several."""
    tiles = grid**2 + (grid > 1)
    convnext = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 12, 12], "initializer_range": 0.3}
    return llava(
        MiniGeminiConfig,
        text_config=text_config,
        image_seq_length=16 * tiles,
        image_grid=grid,
        image_global=grid > 1,
        high_res_config={**convnext, "layer_scale_init_value": 0.5},
        high_res_size=HIGH,
        **changes,
    )


def siglip(side=SIDE):
    return vision(hf.SiglipVisionConfig, image_size=side)


def pixtral():
    return vision(hf.PixtralVisionConfig, head_dim=16)


def text(kind, **changes):
    return functools.partial(text_config, kind, **changes)


def idefics(kind, own, **changes):
    return llava(
        kind,
        vision_config=functools.partial(vision, own),
        scale_factor=2,
        pad_token_id=PAD,
        **changes,
    )


def perceiver():
    return hf.models.idefics2.Idefics2PerceiverConfig(
        hidden_size=64, resampler_n_latents=16, resampler_depth=1, resampler_n_heads=2,
        resampler_head_dim=16, num_key_value_heads=2, initializer_range=0.3,
    )  # fmt: skip


def intern(kind):
    own = functools.partial(vision, kind, image_size=[SIDE, SIDE], patch_size=[PATCH, PATCH])
    return {"vision_config": own, "text_config": text("qwen2"), "image_seq_length": 16}


def ovis_vision():
    return vision(hf.models.ovis2.Ovis2VisionConfig, vocab_size=40, hidden_stride=2)


def got_vision():
    return hf.models.got_ocr2.GotOcr2VisionConfig(
        hidden_size=32, output_channels=16, num_hidden_layers=2, num_attention_heads=2,
        image_size=SIDE * 2, patch_size=PATCH, window_size=4, global_attn_indexes=[1], mlp_dim=48,
        initializer_range=0.3,
    )  # fmt: skip


def janus_vision():
    return vision(
        hf.models.janus.JanusVisionConfig,
        image_size=SMALL,
        projection_dim=64,
        num_image_tokens=16,
        mlp_ratio=2.0,
    )


def janus_vq():
    return hf.models.janus.JanusVQVAEConfig(
        embed_dim=8, num_embeddings=16, latent_channels=32, base_channels=32,
        channel_multiplier=[1, 1], num_patches=4, projection_dim=64, image_token_embed_dim=64,
        num_res_blocks=1,
    )  # fmt: skip


def aria_text():
    return text_config("aria", moe_num_experts=4, moe_topk=2, moe_num_shared_experts=1)


def flat(random, number):
    """Patches of an image in one row, and their grid."""
    height = 8 if number % 2 == 0 else 4
    patches = torch.randn(height * 8, 3 * PATCH**2, generator=random, dtype=torch.float64)
    sizes = {
        "image_grid_thw": torch.tensor([[1, height, 8]]),
        "image_merge_sizes": torch.tensor([2]),
    }
    return {"pixel_values": patches, **sizes}


def llama3_vision():
    settings = vision(dict)
    del settings["image_size"]
    return hf.models.video_llama_3.VideoLlama3VisionConfig(**settings)


BOTH = {"video_token_id": VIDEO}
IDEFICS_VISION = hf.models.idefics3.Idefics3VisionConfig

SMALL_SIGLIP, TILES = functools.partial(siglip, SMALL), sized_as(2, SIDE)
NEXT = {"image_grid_pinpoints": PINPOINTS, "image_seq_length": 16}
PIXTRAL = {"vision_config": pixtral, "spatial_merge_size": 2}
COHERE = {"vision_config": siglip, "text_config": text("cohere")}

KINDS = {
    "llava-mistral": Kind(
        llava(hf.LlavaConfig, text_config=text("mistral"), image_seq_length=16), plain
    ),
    "llava-qwen2": Kind(
        llava(hf.LlavaConfig, text_config=text("qwen2"), image_seq_length=16), plain
    ),
    "vipllava": Kind(
        llava(hf.VipLlavaConfig, vision_feature_layers=(-1, -2), image_seq_length=16), plain
    ),
    "mini-gemini-hd": Kind(mined(2, text("llama")), functools.partial(pair, tiles=5)),
    "mini-gemini-mixtral": Kind(mined(1, text("mixtral")), pair),
    "llava-next": Kind(llava(hf.LlavaNextConfig, **NEXT), anyres),
    "llava-next-video": Kind(llava(hf.LlavaNextVideoConfig, **NEXT, **BOTH), anyres, clip_of(4)),
    "llava-onevision": Kind(
        llava(
            hf.LlavaOnevisionConfig,
            vision_config=SMALL_SIGLIP,
            text_config=text("qwen2"),
            image_grid_pinpoints=PINPOINTS,
            **BOTH,
        ),
        anyres,
        clip_of(3),
    ),
    "video-llava": Kind(
        llava(hf.VideoLlavaConfig, image_seq_length=16, **BOTH), named_images, clip_of(2)
    ),
    "internvl": Kind(llava(hf.InternVLConfig, **intern(hf.InternVLVisionConfig)), TILES),
    "qianfan-ocr": Kind(
        llava(hf.QianfanOCRConfig, **intern(hf.models.qianfan_ocr.QianfanOCRVisionConfig)), TILES
    ),
    "idefics2": Kind(
        idefics(
            hf.Idefics2Config,
            hf.models.idefics2.Idefics2VisionConfig,
            text_config=text("mistral"),
            perceiver_config=perceiver,
        ),
        nested,
        nested=True,
    ),
    "idefics3": Kind(idefics(hf.Idefics3Config, IDEFICS_VISION), nested, nested=True),
    "smolvlm": Kind(
        idefics(hf.SmolVLMConfig, hf.models.smolvlm.SmolVLMVisionConfig), nested, nested=True
    ),
    "mistral3": Kind(
        llava(hf.Mistral3Config, text_config=text("mistral"), **PIXTRAL), sized, row=4
    ),
    "lighton-ocr": Kind(
        llava(hf.LightOnOcrConfig, text_config=text("qwen3"), **PIXTRAL), sized, row=4
    ),
    "aya-vision": Kind(llava(hf.AyaVisionConfig, **COHERE), TILES),
    "cohere2-vision": Kind(
        llava(hf.Cohere2VisionConfig, alignment_intermediate_size=64, **COHERE), TILES
    ),
    "ovis2": Kind(
        llava(
            hf.Ovis2Config,
            vision_config=ovis_vision,
            text_config=text("qwen2"),
            hidden_size=64,
            vocab_size=VOCAB,
            visual_indicator_token_ids=[91, 92, 93, 94, 95],
        ),
        TILES,
    ),
    "got-ocr2": Kind(
        llava(hf.GotOcr2Config, vision_config=got_vision, text_config=text("qwen2")),
        sized_as(1, 2 * SIDE),
    ),
    "janus": Kind(llava(hf.JanusConfig, vision_config=janus_vision, vq_config=janus_vq), plain),
    "deepseek-vl": Kind(llava(hf.DeepseekVLConfig, vision_config=SMALL_SIGLIP), plain),
    "aria": Kind(
        llava(
            hf.AriaConfig,
            vision_config=functools.partial(vision, IDEFICS_VISION),
            text_config=aria_text,
            vision_feature_layer=-1,
            projector_patch_to_query_dict={64: 16},
        ),
        sized_as(1, SIDE),
    ),
    # nobody registered it: found by its parts
    "video-llama3": Kind(
        llava(hf.VideoLlama3Config, vision_config=llama3_vision, text_config=text("qwen2"), **BOTH),
        flat,
    ),
}
