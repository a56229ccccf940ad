"""Tiny random models and inputs, built from configs; nothing is downloaded."""

from dataclasses import dataclass, field

import torch
import transformers
from packaging.version import Version
from transformers import (
    AriaTextConfig,
    CLIPVisionConfig,
    CohereConfig,
    GemmaConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    MixtralConfig,
    Qwen2Config,
    Qwen3Config,
)

# before 5.18: images of copied rows are mixed up, features are not encoded ahead, reset() keeps a
# cache's length
OLD = Version(transformers.__version__) < Version("5.18")
IMAGE = 3
PAD = 0
VOCAB = 96
SIDE = 24  # pixels
PATCH = 4
VISUAL = (SIDE // PATCH) ** 2  # 36 visual tokens an image

TEXTS = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "mistral": MistralConfig,
    "mixtral": MixtralConfig,
    "qwen3": Qwen3Config,
    "cohere": CohereConfig,
    "gemma": GemmaConfig,
    "aria": AriaTextConfig,
}


TEXT = {  # eight layers, grouped-query attention
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}


def text_config(kind="llama", **changes):
    """The config of a text model."""
    make = TEXTS[kind]
    settings = {
        **TEXT,
        **({"sliding_window": None} if kind in ("mistral", "mixtral") else {}),
        **({"num_local_experts": 4} if kind == "mixtral" else {}),
        **({"head_dim": 16} if kind == "qwen3" else {}),
    }
    return make(**{**settings, **changes})


def tiny_llava(
    seed=0, attention="sdpa", dtype=torch.float64, kind="llama", *, side=SIDE, **changes
):
    """A LLaVA-1.5-shaped model whose attention is far from uniform."""
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=side,
        patch_size=PATCH,
        projection_dim=32,
        initializer_range=0.3,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text_config(kind, **changes),
        image_token_id=IMAGE,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=(side // PATCH) ** 2,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation=attention)
    return ready(model, dtype)


def ready(model, dtype):
    """A model that is not trained, and whose answers are as long as asked for."""
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = PAD, None
    return model.to(dtype).eval()


@dataclass
class Batch:
    """Inputs of a batch, and each sample alone."""

    inputs: dict
    alone: list = field(default_factory=list)


def batch(rows, seed=0, dtype=torch.float64, left=True, *, side=SIDE, first=(1,)):
    """Build a padded batch.

    Args:
        rows: for each sample, a list of "image" and numbers of random text tokens, in order.
        side: pixels an image.
        first: tokens before everything.
    """
    random = torch.Generator().manual_seed(seed)
    ids, pixels = [], []
    for row in rows:
        tokens, images = list(first), []
        for part in row:
            if part == "image":
                tokens += [IMAGE] * (side // PATCH) ** 2
                images.append(torch.randn(3, side, side, generator=random, dtype=dtype))
            else:
                tokens += torch.randint(4, VOCAB, (part,), generator=random).tolist()
        ids.append(torch.tensor(tokens))
        pixels.append(images)
    length = max(map(len, ids))
    padded = torch.full((len(ids), length), PAD)
    mask = torch.zeros_like(padded)
    for row, tokens in enumerate(ids):
        where = slice(length - len(tokens), length) if left else slice(0, len(tokens))
        padded[row, where], mask[row, where] = tokens, 1
    together = {"input_ids": padded, "attention_mask": mask}
    every = [image for images in pixels for image in images]
    if every:
        together["pixel_values"] = torch.stack(every)
    alone = []
    for tokens, images in zip(ids, pixels, strict=True):
        own = {"input_ids": tokens[None], "attention_mask": torch.ones_like(tokens)[None]}
        if images:
            own["pixel_values"] = torch.stack(images)
        alone.append(own)
    return Batch(together, alone)
