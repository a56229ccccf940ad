"""Tiny checkpoints that both vLLM and transformers load, with a tokenizer of one token a word."""

import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

VOCAB = 320
SPECIAL = [
    "<pad>",
    "<s>",
    "</s>",
    "<image>",
    "<unk>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|video_pad|>",
    "<|image_pad|>",
]
PAD, BOS, EOS, IMAGE = range(4)
START, END, VIDEO, PADS = range(5, 9)  # of Qwen-VL; PADS is its placeholder of an image
NAMES = ["USER", "ASSISTANT", ":", "what", "color", "is", "the", "shape", "?"]
TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "initializer_range": 0.15,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "tie_word_embeddings": False,
}
CLIP = {
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 14,
    "projection_dim": 64,
    "initializer_range": 0.3,
}
MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]


def template(image):
    """A chat template in the manner of LLaVA-1.5."""
    return (
        "{%- for message in messages -%}{{- message['role'].upper() + ' : ' -}}"
        "{%- if message['content'] is string -%}{{- message['content'] -}}{%- else -%}"
        "{%- for item in message['content'] -%}"
        "{{- '" + image + " ' if item['type'] == 'image' else item['text'] -}}"
        "{%- endfor -%}{%- endif -%}{{- ' ' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- 'ASSISTANT :' -}}{%- endif -%}"
    )


def tokenizer(image="<image>"):
    names = dict(enumerate([*SPECIAL, *NAMES]))
    words = Tokenizer(
        models.WordLevel({names.get(i, f"w{i}"): i for i in range(VOCAB)}, unk_token="<unk>")  # noqa: S106
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",  # noqa: S106
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        additional_special_tokens=["<image>", *SPECIAL[5:]],
        chat_template=template(image),
    )


def save_llava(folder, side=112, **text):
    """LLaVA-1.5 of 8 x 8 visual tokens; `text` changes its decoder."""
    vision = hf.CLIPVisionConfig(**CLIP, image_size=side)
    config = hf.LlavaConfig(
        vision_config=vision,
        text_config=hf.LlamaConfig(**{**TEXT, **text}),
        image_token_index=IMAGE,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=(side // 14) ** 2,
    )
    model = make(hf.LlavaForConditionalGeneration, config, "multi_modal_projector")
    save(model, folder, rename=True)
    clip_processor(hf.LlavaProcessor, side).save_pretrained(folder)
    return folder


QWEN = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_heads": 2,
    "out_hidden_size": 128,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "initializer_range": 0.2,
}
WRAPPED = "<|vision_start|><|image_pad|><|vision_end|>"


def save_qwen(folder, number="2_5"):
    """Qwen2.5-VL with windows of 4 x 4 merged patches, or Qwen3-VL with DeepStack twice."""
    ids = {
        "image_token_id": PADS,
        "video_token_id": VIDEO,
        "vision_start_token_id": START,
        "vision_end_token_id": END,
    }
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 12, 12]}
    vision = {**QWEN, "window_size": 112, "fullatt_block_indexes": [1]}
    if number == "3":
        vision = {**QWEN, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
        rope |= {"mrope_section": [12, 10, 10], "mrope_interleaved": True}
    text = {**TEXT, "rope_parameters": rope}
    name = f"Qwen{number}VL" if number == "3" else f"Qwen{number}_VL"
    config = getattr(hf, name + "Config")(
        vision_config=vision, text_config=text, tie_word_embeddings=False, **ids
    )
    save(make(getattr(hf, name + "ForConditionalGeneration"), config, "visual"), folder)
    words = tokenizer(WRAPPED)
    videos = hf.Qwen3VLVideoProcessor() if number == "3" else hf.Qwen2VLVideoProcessor()
    getattr(hf, name + "Processor")(
        image_processor=hf.Qwen2VLImageProcessor(
            min_pixels=28 * 28, max_pixels=28 * 28 * 64, patch_size=14, merge_size=2
        ),
        tokenizer=words,
        video_processor=videos,
        chat_template=words.chat_template,
    ).save_pretrained(folder)
    return folder


def save_llava_next(folder, side=56):
    """LLaVA-NeXT with tiles of 4 x 4 visual tokens."""
    pinpoints = [[side, 2 * side], [2 * side, side], [2 * side, 2 * side], [side, 3 * side]]
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**CLIP, image_size=side),
        text_config=hf.LlamaConfig(**TEXT),
        image_token_index=IMAGE,
        image_grid_pinpoints=pinpoints,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=(side // 14) ** 2,
    )
    model = make(hf.LlavaNextForConditionalGeneration, config, "multi_modal_projector")
    torch.nn.init.normal_(model.model.image_newline)
    save(model, folder, rename=True)
    clip_processor(hf.LlavaNextProcessor, side, image_grid_pinpoints=pinpoints).save_pretrained(
        folder
    )
    return folder


def clip_processor(kind, side, **changes):
    images = (hf.LlavaNextImageProcessor if changes else hf.CLIPImageProcessor)(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=MEAN,
        image_std=STD,
        **changes,
    )
    words = tokenizer()
    return kind(
        image_processor=images,
        tokenizer=words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",  # noqa: S106
        chat_template=words.chat_template,
    )


def make(kind, config, part, spread=0.15):
    """A random model whose answers depend on its images."""
    torch.manual_seed(0)
    model = kind(config)
    for name, weight in model.named_parameters():
        if part in name and weight.ndim >= 2:
            torch.nn.init.normal_(weight, std=spread)
    return model.float().eval()


def save(model, folder, rename=False):
    """Save a model; `rename` gives its encoder the names that checkpoints on hubs have."""
    model.save_pretrained(folder)
    if not rename:
        return
    path = folder / "model.safetensors"
    inner, outer = "vision_tower.", "vision_tower.vision_model."
    weights = load_file(path)
    renamed = {
        name if outer in name else name.replace(inner, outer): weight
        for name, weight in weights.items()
    }
    save_file(renamed, path, metadata={"format": "pt"})
