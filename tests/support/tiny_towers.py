"""Tiny LLaVA models with other image encoders, and slow references of what these compute."""

import functools
from functools import partial

import torch
from transformers import (
    CLIPVisionConfig,
    Dinov2Config,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
)

from tests.support import tiny

DEPTH, WIDTH = 5, 32
COMMON = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "image_size": tiny.SIDE,
    "patch_size": tiny.PATCH,
    "initializer_range": 0.3,
}


def vision(tower):
    """The config of an image encoder."""
    if tower == "clip":
        return CLIPVisionConfig(**COMMON, intermediate_size=48, projection_dim=WIDTH)
    if tower == "siglip":
        return SiglipVisionConfig(**COMMON, intermediate_size=48, vision_use_head=False)
    return Dinov2Config(**COMMON, mlp_ratio=2)


@functools.cache
def llava(tower="clip", layer=-2, dtype=torch.float64, **changes):
    """A LLaVA around an image encoder, made once for all tests."""
    strategy = "full" if tower == "siglip" else "default"
    config = LlavaConfig(
        vision_config=vision(tower),
        text_config=tiny.text_config(**changes),
        image_token_id=tiny.IMAGE,
        vision_feature_layer=layer,
        vision_feature_select_strategy=strategy,
        image_seq_length=tiny.VISUAL,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    model = tiny.ready(model, dtype)
    for block in model.model.vision_tower.modules():  # attention that is far from uniform
        if hasattr(block, "q_proj"):
            block.q_proj.weight.data *= 4
    return model


def note(rows, _, __, output):
    rows.append(output)


class Maps:
    """Whole attention maps and block outputs of an image encoder, recorded by eager attention.

    Args: pixels: (I, 3, H, W).
    """

    def __init__(self, model, pixels):
        tower = model.model.vision_tower
        tower.set_attn_implementation("eager")
        keys, queries = [], []
        handles = []
        for name, part in tower.named_modules():
            for rows, names in ((keys, ("k_proj", "key")), (queries, ("q_proj", "query"))):
                if name.rsplit(".", 1)[-1] in names:
                    handles.append(part.register_forward_hook(partial(note, rows)))
        try:
            with torch.no_grad():
                out = tower(pixels, output_attentions=True, output_hidden_states=True)
        finally:
            for handle in handles:
                handle.remove()
            tower.set_attn_implementation("sdpa")
        self.attention, self.hidden = out.attentions, out.hidden_states  # (I, H, N, N), (I, N, D)
        self.keys = [key.unflatten(-1, (2, -1)).mean(dim=-2) for key in keys]  # (I, N, d)
        self.wide_keys, self.wide_queries = keys, queries  # (I, N, H d)

    def want(self, need, block, first):
        """What a need is, (I, n, ...): `block` counts from 0, `first` tokens are no patches."""
        if need.kind == "features":
            return self.hidden[block + 1][:, first:]
        if need.kind == "keys":
            return self.keys[block][:, first:]
        if need.kind == "wide_keys":
            return self.wide_keys[block][:, first:]
        if need.kind == "wide_class_attention":
            logits = torch.einsum(
                "id,ind->in", self.wide_queries[block][:, 0], self.wide_keys[block]
            )
            return (logits / WIDTH**0.5).softmax(dim=-1)[:, first:]
        heads = self.attention[block].mean(dim=1)  # (I, N, N)
        return (heads[:, 0] if need.kind == "class_attention" else heads.mean(dim=1))[:, first:]
