"""Makes the base model's folder of the two parts: a transformers checkpoint of LLaVA-1.5's shape.

Knows configurations, processors and checkpoint files; knows nothing about wheels or the adapter.
The projector in it is random (fixed seed): without the adapter the model sees and speaks, but does
not understand what it sees.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, LlavaConfig, LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from sparsight.models.embedded.convert import (
    IMAGE_TOKEN,
    LanguageFile,
    vision_config,
    vision_weights,
)

IMAGE_SIZE = 336
PATCH_SIZE = 14
VISUAL_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2  # 576
_IMAGE_MEAN = [0.485, 0.456, 0.406]
_IMAGE_STD = [0.229, 0.224, 0.225]
_PROJECTOR_SEED = 0

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for item in message['content'] -%}\
{%- if item['type'] == 'image' -%}{{- '<image>\\n' -}}{%- endif -%}{%- endfor -%}
{%- for item in message['content'] -%}\
{%- if item['type'] == 'text' -%}{{- item['text'] -}}{%- endif -%}{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""SmolLM2's turns without a system prompt; images of a turn stand before its text, one a line."""


def build_config(language: LanguageFile, image_token_id: int) -> LlavaConfig:
    """Return the config of LLaVA-1.5: penultimate layer, no class token, 576 visual tokens."""
    text = language.config()
    text.vocab_size = image_token_id + 1
    return LlavaConfig(
        vision_config=vision_config(),
        text_config=text,
        image_token_index=image_token_id,
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=VISUAL_TOKENS,
        tie_word_embeddings=True,
        architectures=["LlavaForConditionalGeneration"],
        dtype="float32",
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Return the processor; it needs Pillow and numpy for images, and no torchvision."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=_IMAGE_MEAN,
        image_std=_IMAGE_STD,
    )
    processor: Any = LlavaProcessor  # its constructor has no types
    return cast(
        "LlavaProcessor",
        processor(
            image_processor=images,
            tokenizer=tokenizer,
            patch_size=PATCH_SIZE,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,  # CLS, which "default" drops again
            image_token=IMAGE_TOKEN,
            chat_template=CHAT_TEMPLATE,
        ),
    )


def save_base(folder: Path, onnx_file: Path, gguf_file: Path) -> None:
    """Convert both parts and write a folder that `from_pretrained` loads.

    Args:
        folder: existing folder that receives the checkpoint.
        onnx_file: the vision part.
        gguf_file: the language part.
    """
    language = LanguageFile(gguf_file)
    tokenizer = language.tokenizer()
    image_token_id = len(tokenizer) - 1  # <image> was added last
    config = build_config(language, image_token_id)
    config.save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    ids = {
        name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    GenerationConfig(**ids).save_pretrained(folder)  # type: ignore[no-untyped-call]

    decoder = language.weights()
    embedding = decoder["embed_tokens.weight"]  # (49152, 576)
    # The output layer shares this matrix: the mean row is never the most likely next token.
    width = embedding.shape[1]
    decoder["embed_tokens.weight"] = torch.cat([embedding, embedding.mean(0, keepdim=True)])
    tensors = {
        f"model.vision_tower.{name}": value for name, value in vision_weights(onnx_file).items()
    }
    tensors |= {f"model.language_model.{name}": value for name, value in decoder.items()}
    tensors |= {
        f"model.multi_modal_projector.{name}": value
        for name, value in _random_projector(width).items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _random_projector(width: int) -> dict[str, torch.Tensor]:
    """Return a two-layer projector of small random weights, equal on every machine."""
    generator = torch.Generator().manual_seed(_PROJECTOR_SEED)
    return {
        "linear_1.weight": torch.randn(width, vision_config().hidden_size, generator=generator)
        * 0.02,
        "linear_1.bias": torch.zeros(width),
        "linear_2.weight": torch.randn(width, width, generator=generator) * 0.02,
        "linear_2.bias": torch.zeros(width),
    }
