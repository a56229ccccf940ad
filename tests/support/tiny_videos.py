"""Tiny models with transformers' own processors of videos, which need torchvision."""

import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.support import tiny, tiny_rotary
from tests.support.tiny_families import tiny_family
from tests.support.tiny_kinds import PATCH, PINPOINTS, SMALL
from tests.support.tiny_kinds import VIDEO as PLAIN_VIDEO

PLAIN = {tiny.IMAGE: "<image>", PLAIN_VIDEO: "<video>"}
QWEN = {
    tiny.IMAGE: "<|image_pad|>",
    tiny_rotary.VIDEO: "<|video_pad|>",
    tiny_rotary.START: "<|vision_start|>",
    tiny_rotary.END: "<|vision_end|>",
}
GLM = {
    tiny.IMAGE: "<|image|>",
    tiny_rotary.VIDEO: "<|video|>",
    tiny_rotary.START: "<|begin_of_image|>",
    tiny_rotary.END: "<|end_of_image|>",
    tiny_rotary.END + 1: "<|begin_of_video|>",
    tiny_rotary.END + 2: "<|end_of_video|>",
}
WRITTEN = {  # how a template writes an image and a video
    "plain": ("<image>", "<video>"),
    "qwen": (
        "<|vision_start|><|image_pad|><|vision_end|>",
        "<|vision_start|><|video_pad|><|vision_end|>",
    ),
    "glm": (
        "<|begin_of_image|><|image|><|end_of_image|>",
        "<|begin_of_video|><|video|><|end_of_video|>",
    ),
}
TEMPLATE = (
    "{%- for message in messages -%}{%- for item in message['content'] -%}"
    "{{- 'IMAGE' if item['type'] == 'image' else 'VIDEO' if item['type'] == 'video' "
    "else ' ' + item['text'] -}}"
    "{%- endfor -%}{%- endfor -%}{{- ' ASSISTANT :' -}}"
)
KINDS = {
    "video-llava": "plain",
    "llava-onevision": "plain",
    "llava-next-video": "plain",
    "qwen2": "qwen",
    "qwen25": "qwen",
    "qwen3": "qwen",
    "glm4v": "glm",
}


def tokenizer(special):
    """Return a tokenizer of one token a word, with special tokens by id."""
    names = {0: "<pad>", 1: "<s>", 2: "</s>", 9: "<unk>"} | special
    words = ["what", "moves", "?", "ASSISTANT", ":", ".", *map(str, range(10)), "seconds", "<", ">"]
    names |= {10 + number: word for number, word in enumerate(words)}
    vocabulary = {names.get(i, f"w{i}"): i for i in range(tiny.VOCAB)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",  # noqa: S106
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        additional_special_tokens=list(special.values()),
    )


def processor(kind):
    """Return the processor of a tiny model."""
    style = KINDS[kind]
    image, video = WRITTEN[style]
    words = tokenizer({"plain": PLAIN, "qwen": QWEN, "glm": GLM}[style])
    given = {
        "tokenizer": words,
        "chat_template": TEMPLATE.replace("IMAGE", image).replace("VIDEO", video),
    }
    if style != "plain":
        return rotary_processor(kind, given)
    square = {"height": SMALL, "width": SMALL}
    sizes = {"size": {"shortest_edge": SMALL}, "crop_size": square}
    points = {"image_grid_pinpoints": PINPOINTS}
    if kind == "llava-onevision":
        return hf.LlavaOnevisionProcessor(
            image_processor=hf.LlavaOnevisionImageProcessor(size=square, **points),
            video_processor=hf.LlavaOnevisionVideoProcessor(size=square),
            num_image_tokens=(SMALL // PATCH) ** 2,
            vision_feature_select_strategy="full",
            **given,
        )
    given |= {"patch_size": PATCH, "vision_feature_select_strategy": "default"}
    given |= {"num_additional_image_tokens": 1}
    if kind == "video-llava":
        return hf.VideoLlavaProcessor(
            image_processor=hf.VideoLlavaImageProcessor(**sizes),
            video_processor=hf.VideoLlavaVideoProcessor(**sizes),
            **given,
        )
    return hf.LlavaNextVideoProcessor(
        image_processor=hf.LlavaNextImageProcessor(**sizes, **points),
        video_processor=hf.LlavaNextVideoVideoProcessor(**sizes),
        **given,
    )


def rotary_processor(kind, given):
    """Return the processor of a model with M-RoPE; frames are shrunk to a few visual tokens."""
    parts = {"patch_size": tiny_rotary.PATCH, "merge_size": tiny_rotary.MERGE}
    parts |= {"temporal_patch_size": 2}
    size = {"shortest_edge": 64, "longest_edge": 24 * 64}
    if kind == "glm4v":
        return hf.Glm4vProcessor(
            image_processor=hf.Glm4vImageProcessor(**parts, size=size),
            video_processor=hf.Glm4vVideoProcessor(**parts, size=size),
            **given,
        )
    names = {"qwen2": "Qwen2VL", "qwen25": "Qwen2_5_VL", "qwen3": "Qwen3VL"}
    videos = hf.Qwen3VLVideoProcessor if kind == "qwen3" else hf.Qwen2VLVideoProcessor
    return getattr(hf, f"{names[kind]}Processor")(
        image_processor=hf.Qwen2VLImageProcessor(**parts, size=size),
        video_processor=videos(**parts, size=size),
        **given,
    )


def load(kind):
    """Return a tiny model and its processor."""
    made = tiny_family(kind) if KINDS[kind] == "plain" else tiny_rotary.model(kind)
    return made, processor(kind)
