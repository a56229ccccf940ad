"""Tiny random models with other positions or masks than LLaVA's, and prompts for them.

A prompt is a list of parts: a number of random words, ("image", h, w) or ("video", t, h, w) in
visual tokens; models whose images are all alike take ("image",).
"""

import functools

import torch
import transformers

from tests.support import tiny
from tests.support.footprint import share
from tests.support.tiny import IMAGE, PAD, TEXT, VOCAB, Batch

VIDEO = 4
START = 5
END = 6
FIRST = 10
MERGE, PATCH = 2, 4
QWEN = ("qwen2", "qwen2_sliding", "qwen25", "qwen3", "qwen3_moe", "glm4v")
STAMPED = ("qwen3", "qwen3_moe", "glm4v")  # text before each frame of a video
WINDOW = 20  # of sliding layers, less than a prompt
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "mlp_only_layers": [],
    "tie_word_embeddings": False,
}


def qwen(kind, **changes):
    """Config of a Qwen-VL model with two vision layers, DeepStack after both from Qwen3 on."""
    name = CLASSES[kind].removesuffix("ForConditionalGeneration")
    vision = {
        "depth": 2,
        "num_heads": 2,
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "spatial_merge_size": MERGE,
    }
    vision["initializer_range"] = 0.2
    text = {
        **TEXT,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
    }
    if kind in ("qwen2", "qwen2_sliding"):
        vision |= {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 48}
    if kind == "qwen25":
        vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
    if kind in ("qwen3", "qwen3_moe"):
        vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
        rope = {**text["rope_parameters"], "mrope_section": [4, 2, 2], "mrope_interleaved": True}
        text |= {"head_dim": 16, "rope_parameters": rope}
    if kind == "qwen3_moe":
        text |= EXPERTS
    if kind == "glm4v":
        vision |= {"image_size": 32}
    if kind == "qwen2_sliding":
        text |= {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 3}
    ids = {"image_token_id": IMAGE, "video_token_id": VIDEO}
    if kind == "glm4v":  # a video has marks of its own, and each of its frames those of an image
        ids |= {"image_start_token_id": START, "image_end_token_id": END}
        ids |= {"video_start_token_id": END + 1, "video_end_token_id": END + 2}
    else:
        ids |= {"vision_start_token_id": START, "vision_end_token_id": END}
    config = getattr(transformers, name + "Config")
    return config(
        vision_config=vision, text_config={**text, **changes}, tie_word_embeddings=False, **ids
    )


def siglip(side):
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": side,
        "patch_size": PATCH,
        "vision_use_head": False,
    }


def gemma3(image=IMAGE, **changes):
    """Config of a Gemma 3 whose layers 2 and 5 of 8 see everything; images are 4 x 4."""
    text = {
        **TEXT,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": WINDOW,
        "sliding_window_pattern": 3,
    }
    return transformers.Gemma3Config(
        vision_config=siglip(32),
        text_config={**text, **changes},
        mm_tokens_per_image=16,
        image_token_index=image,
        tie_word_embeddings=False,
    )


def paligemma(version, **changes):
    """Config of a PaliGemma; images are 5 x 5."""
    text = {**TEXT, "head_dim": 16, "model_type": "gemma"}
    if version == 2:
        text |= {"model_type": "gemma2", "sliding_window": WINDOW, "query_pre_attn_scalar": 16}
        text |= {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 10.0}
    return transformers.PaliGemmaConfig(
        vision_config=siglip(20),
        text_config={**text, **changes},
        image_token_index=IMAGE,
        projection_dim=64,
        hidden_size=64,
        vocab_size=VOCAB,
        tie_word_embeddings=False,
    )


MODELS = {
    **{kind: functools.partial(qwen, kind) for kind in QWEN},
    "gemma3": gemma3,
    "paligemma": functools.partial(paligemma, 1),
    "paligemma2": functools.partial(paligemma, 2),
}
CLASSES = {
    "qwen2_sliding": "Qwen2VLForConditionalGeneration",
    "glm4v": "Glm4vForConditionalGeneration",
    "qwen2": "Qwen2VLForConditionalGeneration",
    "qwen25": "Qwen2_5_VLForConditionalGeneration",
    "qwen3": "Qwen3VLForConditionalGeneration",
    "qwen3_moe": "Qwen3VLMoeForConditionalGeneration",
    "gemma3": "Gemma3ForConditionalGeneration",
    "paligemma": "PaliGemmaForConditionalGeneration",
    "paligemma2": "PaliGemmaForConditionalGeneration",
}
LLAVA = {
    "mistral": {"kind": "mistral", "sliding_window": WINDOW},
    "qwen2_window": {
        "kind": "qwen2",
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 3,
    },
}
KINDS = (*MODELS, *LLAVA)
PAIRS = [
    (kind, kernel)
    for kind in KINDS
    for kernel in ("sdpa", "eager")
    if (kind, kernel) != ("paligemma2", "sdpa")
]
SIDES = {
    "gemma3": (4, 4),
    "paligemma": (5, 5),
    "paligemma2": (5, 5),
    **dict.fromkeys(LLAVA, (6, 6)),
}


@functools.cache
def model(kind, kernel="sdpa", dtype=None, **changes):
    """Return a tiny model, made once; float64 for sdpa, float32 for eager (see cases.py)."""
    dtype = dtype or {"sdpa": torch.float64, "eager": torch.float32}[kernel]
    name = f"tiny_rotary.model({kind!r}, {kernel!r}, {dtype}, {changes})"
    if kind in LLAVA:
        made = tiny.tiny_llava(attention=kernel, dtype=dtype, **{**LLAVA[kind], **changes})
        return share(made, name)
    config = MODELS[kind](**changes)
    if kind == "qwen3_moe":
        config.text_config._experts_implementation = "eager"  # the grouped kernel knows no float64
    torch.manual_seed(0)
    made = getattr(transformers, CLASSES[kind])._from_config(config, attn_implementation=kernel)
    if kind == "gemma3":
        torch.nn.init.normal_(made.model.multi_modal_projector.mm_input_projection_weight)
    return share(tiny.ready(made, dtype), name)


def rows(kind):
    """Two ragged samples, with images of different sizes where a model takes them."""
    return [[image(kind, 4, 5), 9], [3, image(kind, 3, 4), 2, image(kind, 2, 6), 7]]


def image(kind, height, width):
    return ("image", height, width) if kind in QWEN else ("image",)


def longer(kind, inputs, said):
    """The arguments of a prompt that goes on with what was said."""
    extra = torch.tensor([said] * len(inputs["input_ids"]), dtype=torch.int64).view(
        len(inputs["input_ids"]), -1
    )
    result = {**inputs, "input_ids": torch.cat([inputs["input_ids"], extra], dim=1)}
    fills = {
        "attention_mask": 1,
        "mm_token_type_ids": 0,
        "token_type_ids": int(kind.startswith("paligemma")),
    }
    for name, fill in fills.items():
        if name in inputs:
            result[name] = torch.cat(
                [inputs[name], torch.full_like(extra, fill).to(inputs[name])], dim=1
            )
    return result


def size(kind, part):
    """Frames, rows and columns of an image or video in visual tokens."""
    return (
        (1, *SIDES[kind]) if len(part) == 1 else (1, *part[1:]) if part[0] == "image" else part[1:]
    )


def tokens(kind, part, random):
    """Ids of one part of a prompt."""
    if isinstance(part, int):
        return torch.randint(FIRST, VOCAB, (part,), generator=random).tolist()
    frames, height, width = size(kind, part)
    placeholder = IMAGE if part[0] == "image" or kind == "glm4v" else VIDEO
    wrapped = kind in QWEN or kind == "gemma3"
    if part[0] == "video" and kind in STAMPED:
        stamp = torch.randint(FIRST, VOCAB, (2,), generator=random).tolist()
        body = [*stamp, START, *[placeholder] * (height * width), END] * frames
        return [END + 1, *body, END + 2] if kind == "glm4v" else body
    body = [placeholder] * (frames * height * width)
    return [START, *body, END] if wrapped else body


def pixels(kind, part, random, dtype):
    """What the image encoder gets for one part."""
    frames, height, width = size(kind, part)
    if kind in QWEN:
        patches = frames * height * width * MERGE**2
        return torch.randn(patches, 3 * 2 * PATCH**2, generator=random, dtype=dtype)
    side = {"gemma3": 32, "paligemma": 20, "paligemma2": 20}.get(kind, tiny.SIDE)
    return torch.randn(1, 3, side, side, generator=random, dtype=dtype)


def inputs_of(kind, rows, ids, made):
    """Arguments of a model for some samples, padded on the left."""
    length = max(map(len, ids))
    padded = torch.stack([torch.tensor([PAD] * (length - len(own)) + own) for own in ids])
    mask = torch.stack([torch.tensor([0] * (length - len(own)) + [1] * len(own)) for own in ids])
    given = {"input_ids": padded, "attention_mask": mask}
    if kind in QWEN:
        given["mm_token_type_ids"] = (padded == IMAGE).int() + 2 * (padded == VIDEO).int()
        if kind == "glm4v" and any(
            part[0] == "video" for row in rows for part in row if not isinstance(part, int)
        ):
            given["mm_token_type_ids"] *= 2  # its frames stand on image placeholders
    elif kind not in LLAVA:
        given["token_type_ids"] = (
            (padded == IMAGE).long() if kind == "gemma3" else torch.zeros_like(padded)
        )
    parts = [
        (part, own)
        for row, all_own in zip(rows, made, strict=True)
        for part, own in zip(row, all_own, strict=True)
    ]
    for name, suffix, sizes in (
        ("image", "", "image_grid_thw"),
        ("video", "_videos", "video_grid_thw"),
    ):
        chosen = [
            (part, own) for part, own in parts if not isinstance(part, int) and part[0] == name
        ]
        if chosen:
            given["pixel_values" + suffix] = torch.cat([own for _, own in chosen])
            if kind in QWEN:
                grids = [size(kind, part) for part, _ in chosen]
                given[sizes] = torch.tensor([(t, h * MERGE, w * MERGE) for t, h, w in grids])
    return given


def batch(kind, rows, dtype, seed=0):
    """Build a padded batch of samples, and each sample alone."""
    random = torch.Generator().manual_seed(seed)
    ids = []
    for row in rows:
        ids.append([1, *(token for part in row for token in tokens(kind, part, random))])
    made = []
    for row in rows:
        images = [None if isinstance(p, int) else pixels(kind, p, random, dtype) for p in row]
        made.append(images)
    alone = [
        inputs_of(kind, [row], [own], [images])
        for row, own, images in zip(rows, ids, made, strict=True)
    ]
    return Batch(inputs_of(kind, rows, ids, made), alone)
