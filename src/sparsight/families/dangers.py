"""What a text decoder may do that cannot be shortened without knowing more, and the names by which it shows."""

import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import GenerationMixin, PreTrainedModel

from sparsight.families.family import Family

EXPERTS = "a mixture of experts, whose costs are not known"
DANGERS = {  # parts of the names of attributes and arguments, and of config fields that are set
    "mrope": "M-RoPE: a token has several positions",
    "rope_delta": "M-RoPE: a token has several positions",
    "rope_index": "M-RoPE: a token has several positions",
    "deepstack": "DeepStack: features are added between layers",
    "token_type_ids": "image blocks that see each other both ways, or M-RoPE",
    "bidirectional": "attention that is not causal",
    "prefix_lm": "attention that is not causal",
    "sliding_window": "sliding windows",
    "chunk_size": "chunked attention",
    "kv_shared": "layers that share keys and values",
    "per_layer_input": "inputs of each layer beside the hidden states",
    "cross_attention": "cross attention",
    "is_encoder_decoder": "an encoder and a decoder",
    "llama_4_scaling": "queries scaled by position, past the rotary table",
    "num_experts": EXPERTS,
    "num_local_experts": EXPERTS,
    "routed_experts": EXPERTS,
}


def dangers(model: nn.Module, family: Family) -> Iterator[str]:
    """Yield what a model of an unknown class does that cannot be shortened."""
    base = family.base_model(model)
    decoder: Any = base.get_submodule(family.decoder)
    kinds = set(getattr(decoder.config, "layer_types", None) or ()) - {"full_attention"}
    if kinds:
        yield f"layers of kind {', '.join(sorted(kinds))}"
    names = {*_settings(decoder.config.to_dict())}
    for part in (model, base, decoder, decoder.layers[0], decoder.layers[-1]):
        names |= {*dir(type(part)), *vars(part), *arguments(part)}
    names -= {*dir(PreTrainedModel), *dir(GenerationMixin)}  # what every model has
    for word, reason in DANGERS.items():
        if any(word in name for name in names):
            yield reason


def arguments(module: nn.Module) -> tuple[str, ...]:
    """Return the names of what a module's forward takes."""
    return tuple(inspect.signature(type(module).forward).parameters)


def _settings(config: dict[str, Any]) -> Iterator[str]:
    """Name the config's fields that are set, nested ones included."""
    for name, value in config.items():
        if value:
            yield str(name)
        if isinstance(value, dict):
            yield from _settings(value)
