"""A tiny tokenizer and processor for `tiny.tiny_llava`, and a folder that holds both."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.support import tiny

MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
SPECIAL = {0: "<pad>", 1: "<s>", 2: "</s>", tiny.IMAGE: "<image>", 4: "<unk>"}
WORDS = ["what", "color", "is", "the", "shape", "?", "USER", "ASSISTANT", ":"]
TEMPLATE = (
    "{%- for message in messages -%}{%- for item in message['content'] -%}"
    "{{- '<image>' if item['type'] == 'image' else item['text'] -}}"
    "{%- endfor -%}{%- endfor -%}{{- ' ASSISTANT :' -}}"
)


BEGINS = "{{- bos_token -}}" + TEMPLATE  # as Gemma 3 and Llama 3 write it


def tokenizer(begins=False):
    """Return a tokenizer of one token a word; `begins` puts BOS in front of every text."""
    names = dict(SPECIAL) | {5 + i: word for i, word in enumerate(WORDS)}
    vocabulary = {names.get(i, f"w{i}"): i for i in range(tiny.VOCAB)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    if begins:
        words.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",  # noqa: S106
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        additional_special_tokens=["<image>"],
    )


def processor(template=TEMPLATE, begins=False):
    """LLaVA-1.5's processor at tiny sizes; `begins` has its tokenizer add the first token (BOS)."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": tiny.SIDE},
        crop_size={"height": tiny.SIDE, "width": tiny.SIDE},
        image_mean=MEAN,
        image_std=STD,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer(begins),
        patch_size=tiny.PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",  # noqa: S106
        chat_template=template,
    )


def save(folder, template=TEMPLATE, begins=False, **changes):
    """Save a random model and its processor, and return the folder."""
    model = tiny.tiny_llava(dtype=torch.float32, **changes)
    model.save_pretrained(folder)
    processor(template, begins).save_pretrained(folder)
    return folder
