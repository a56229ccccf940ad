"""A tiny CLIP whose image side takes the features of tiny LLaVAs, its tokenizer, and its tower."""

import functools

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    PreTrainedTokenizerFast,
)

from sparsight.families.clip import make_clip_tower
from tests.support import tiny, tiny_processor

START, END = 94, 95  # the end fills up, too
POSITIONS = 8  # of the text side: segments of six words


def tokenizer():
    """Return a tokenizer of one token a word; start and end are its highest ids, as CLIP's are."""
    names = {START: "<start>", END: "<end>"}
    names |= {5 + i: word for i, word in enumerate(tiny_processor.WORDS)}
    vocabulary = {names.get(i, f"w{i}"): i for i in range(tiny.VOCAB)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))  # noqa: S106
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<start>",  # noqa: S106
        eos_token="<end>",  # noqa: S106
        pad_token="<end>",  # noqa: S106
        unk_token="w0",  # noqa: S106
    )


@functools.cache
def model(width=32, dtype=torch.float64, seed=1):
    """Return a random CLIP, made once for all tests."""
    sizes = {
        "hidden_size": width,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "initializer_range": 0.3,
        "projection_dim": 24,
    }
    text = CLIPTextConfig(
        **{**sizes, "hidden_size": 16},
        vocab_size=tiny.VOCAB,
        max_position_embeddings=POSITIONS,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=END,
    )
    vision = CLIPVisionConfig(**sizes, image_size=tiny.SIDE, patch_size=tiny.PATCH)
    torch.manual_seed(seed)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    made = CLIPModel(config).eval()
    torch.nn.init.normal_(made.vision_model.post_layernorm.weight, 1.0, 0.3)  # it does something
    return made.to(dtype)


@functools.cache
def tower(width=32, dtype=torch.float64, seed=1):
    """Return the tower of a random CLIP for tiny LLaVAs."""
    return make_clip_tower(model(width, dtype, seed), tokenizer(), tiny_processor.tokenizer())
