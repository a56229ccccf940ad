"""Builds models of known shapes with random weights, for benchmarks.

Vocabularies and image encoders are small, to save memory.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
)

IMAGE_TOKEN = 3
VOCABULARY = 512


@dataclass(frozen=True)
class Shape:
    """The sizes of one model.

    Args:
        about: the model that it stands for, and how it differs from that model.
        config: class of the text config.
        sizes: fields of the text config.
        visual_tokens: of one image.
        retain: budgets that are measured by default.
    """

    about: str
    config: type[LlamaConfig] | type[Qwen2Config]
    sizes: dict[str, int]
    visual_tokens: int = 576
    retain: tuple[int, ...] = (192, 64)


def _name_sizes(layers: int, width: int, ffn: int, heads: int, kv_heads: int) -> dict[str, int]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
    }


SHAPES = {
    "embedded": Shape(
        "the embedded model's text decoder (SmolLM2-135M)",
        LlamaConfig,
        _name_sizes(30, 576, 1536, 9, 3),
    ),
    "llava-1.5-7b": Shape(
        "LLaVA-1.5-7B's text decoder", LlamaConfig, _name_sizes(32, 4096, 11008, 32, 32)
    ),
    "qwen2.5-vl-7b": Shape(
        "a Qwen2 decoder of Qwen2.5-VL-7B's sizes inside a LLaVA: its layers, but 1-D positions "
        "and no image encoder",
        Qwen2Config,
        _name_sizes(28, 3584, 18944, 28, 4),
    ),
    "tiny": Shape(
        "a toy for tests", LlamaConfig, _name_sizes(8, 64, 96, 4, 2), visual_tokens=36, retain=(12,)
    ),
}


def build(shape: Shape, text_tokens: int, device: torch.device, dtype: torch.dtype) -> Any:
    """Return a model with random weights, in evaluation mode.

    Args:
        shape: sizes of the model.
        text_tokens: of the prompt, which needs as many positions.
        device: that the weights are made on; they never pass through the host.
        dtype: of the weights.
    """
    side = round(shape.visual_tokens**0.5)
    text = shape.config(
        vocab_size=VOCABULARY,
        max_position_embeddings=max(4096, shape.visual_tokens + text_tokens + 1024),
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **shape.sizes,  # type: ignore[arg-type]
    )
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=14 * side,
        patch_size=14,
    )
    config: Any = LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE_TOKEN)  # type: ignore[call-arg]
    make: Any = LlavaForConditionalGeneration._from_config
    torch.manual_seed(0)
    with torch.device(device):
        model = make(config, dtype=dtype, attn_implementation="sdpa")
    return model.to(device).eval()
