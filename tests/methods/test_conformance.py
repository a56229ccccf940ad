"""Parity with the authors' code, recorded on two tiny random decoders."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from sparsight import SparseVLM, sparsify
from tests.support import tiny
from tests.support.caches import cached

DATA = Path(__file__).parents[1] / "data"


def load(name):
    with safe_open(DATA / name, "pt") as file:
        return json.loads(file.metadata()["info"]), {
            key: file.get_tensor(key)
            for key in file.keys()  # noqa: SIM118 - the file is no mapping
        }


def rebuild(info, tensors):
    """A LLaVA whose embedding table and image features give the recorded embeddings."""
    count = len(tensors["inputs_embeds"])
    sizes = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    )
    model = tiny.tiny_llava(
        vocab_size=count + 8,
        rms_norm_eps=info["rms_norm_eps"],
        rope_parameters={"rope_theta": info["rope_theta"], "rope_type": "default"},
        max_position_embeddings=1024,
        **{size: info[size] for size in sizes},
    )
    decoder = model.model.language_model
    weights = {
        k.removeprefix("weights."): v.double()
        for k, v in tensors.items()
        if k.startswith("weights.")
    }
    table = torch.zeros(count + 8, info["hidden_size"], dtype=torch.float64)
    table[8:] = tensors["inputs_embeds"].double()
    decoder.load_state_dict({**weights, "embed_tokens.weight": table})
    ids = torch.arange(count) + 8
    visual = slice(info["visual_start"], info["visual_start"] + info["visual_tokens"])
    ids[visual] = tiny.IMAGE
    features = tensors["inputs_embeds"][visual].double()
    model.model.get_image_features = lambda **_: BaseModelOutputWithPooling(
        pooler_output=[features]
    )
    return model, ids[None]


@pytest.mark.parametrize("name", ["authors_192.safetensors", "authors_64.safetensors"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_reproduces_the_authors_code(name, attention):
    info, tensors = load(name)
    model, ids = rebuild(info, tensors)
    model.set_attn_implementation(attention)
    cache = DynamicCache(config=model.config)
    # recorded in 18 layers, where the authors' counts have another mean and are one's own
    method = replace(SparseVLM.paper(info["budget"]), retain=info["budget"] - 1)
    with sparsify(model, method) as run, torch.no_grad():
        output = model.model(
            input_ids=ids, pixel_values=torch.zeros(1, 3, 24, 24), **cached(cache), use_cache=True
        )
    first_text = info["visual_start"] + info["visual_tokens"]
    assert (run.trace.raters[0] - first_text).tolist() == tensors["raters"].tolist()
    for step, site in enumerate(run.trace.samples[0]):
        torch.testing.assert_close(site.score, tensors[f"scores.{step}"], rtol=1e-4, atol=0)
        order = site.present.tolist()
        assert [order.index(i) for i in site.keep.tolist()] == tensors[f"kept.{step}"].tolist()
        assert len(site.centres) == len(tensors[f"recycled.{step}"])
    assert [layer.keys.shape[-2] for layer in cache.layers] == info["kv_lengths"]
    assert run.stats.tokens_per_layer[0] == tuple(info["kv_lengths"])
    want = tensors["hidden_states"]
    error = (output.last_hidden_state[0] - want).norm() / want.norm()
    assert error < 1e-4, error
