"""A family for classes that nobody registered, where they follow LLaVA's pattern.

Features of unknown text decoders that the engine cannot handle are recognised by names of
attributes, arguments and config fields, and refused by name. Structure alone counts, so that a
model without weights can be asked; the engine's probe then watches a few tokens go through.
"""

import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import GenerationMixin, PreTrainedModel

from sparsight.errors import UnsupportedError
from sparsight.families.family import BOTH_IDS, Family

PARTS = frozenset({"self_attn", "mlp"})  # of a decoder layer, norms and dropout aside
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


def find_unknown_family(model: nn.Module) -> Family:
    """Find the parts of a model of an unknown class.

    Raises: UnsupportedError: parts are missing, or do what cannot be shortened; the message names
    all of it.
    """
    name = type(model).__name__
    for base, decoder in _paths(model):
        family = Family(
            name="generic",
            classes=(name,),
            base=base,
            decoder=decoder,
            visual_ids=BOTH_IDS,
            features=_features(model, base),
            probed=True,
        )
        found = [*_missing(model, family), *find_dangers(model, family)]
        if found:
            raise UnsupportedError(
                f"{name} is not of a supported class, and cannot be hosted by its parts: {_all(found)}."
            )
        return family
    raise UnsupportedError(
        f"{name} is not of a supported class, and has no text decoder at language_model or text_model with layers "
        "of its own; `sparsight models` lists the supported model classes."
    )


def text_family(model: nn.Module) -> Family:
    """Find the parts of a text model whose visual tokens its caller puts in and marks.

    Raises: UnsupportedError: it is no text model, or does what cannot be shortened; the message
    names all of it.
    """
    name = type(model).__name__
    base = "" if isinstance(getattr(model, "layers", None), nn.ModuleList) else "model"
    decoder = getattr(model, base) if hasattr(model, base) else model
    if not isinstance(getattr(decoder, "layers", None), nn.ModuleList):
        raise UnsupportedError(
            f"visual_mask is for text models with decoder layers at model.layers or layers; {name} has none there. "
            "A vision-language model tells its visual tokens itself: leave visual_mask out."
        )
    family = Family(
        "text", (name,), base, decoder="", visual_ids=(), features=("inputs_embeds",), probed=True
    )
    found = [*_odd_parts(decoder), *find_dangers(model, family)]
    if found:
        raise UnsupportedError(
            f"the text model {name} cannot be hosted by its parts: {_all(found)}."
        )
    return family


def _all(found: list[str]) -> str:
    return "; ".join(dict.fromkeys(found))


def _paths(model: nn.Module) -> Iterator[tuple[str, str]]:
    for base in ("model", ""):
        part = getattr(model, base, None) if base else model
        for decoder in ("language_model", "text_model"):
            layers = getattr(getattr(part, decoder, None), "layers", None)
            if isinstance(layers, nn.ModuleList) and len(layers):
                yield base, decoder


def _features(model: nn.Module, base: str) -> tuple[str, ...]:
    taken = {name for part in {model, model.get_submodule(base)} for name in argument_names(part)}
    return tuple(
        sorted(name for name in taken if "pixel_values" in name or name == "mm_encoder_outputs")
    )


def _missing(model: nn.Module, family: Family) -> Iterator[str]:
    base: Any = family.base_model(model)
    decoder: Any = base.get_submodule(family.decoder)
    if not any(
        "pixel_values" in name for name in family.features
    ) or "input_ids" not in argument_names(base):
        yield "its forward takes no input_ids with pixel_values"
    if not family.placeholder_ids(base.config):
        yield f"its config has none of {', '.join(BOTH_IDS)}"
    yield from _odd_parts(decoder)


def _odd_parts(decoder: Any) -> Iterator[str]:
    if not hasattr(getattr(decoder, "rotary_emb", None), "inv_freq"):
        yield "its text decoder has no rotary_emb with inv_freq"
    for layer in decoder.layers:
        parts = {
            name
            for name, part in layer.named_children()
            if "norm" not in name and "dropout" not in name
        }
        if parts != PARTS:
            yield f"its decoder layers are made of {', '.join(sorted(parts))} instead of self_attn and mlp"
        attention = getattr(layer, "self_attn", None)
        if not getattr(attention, "is_causal", True):
            yield "its attention is not causal"
        if attention is not None and "position_ids" in argument_names(attention):
            yield "its attention reads position_ids, past the rotary table"


def find_dangers(model: nn.Module, family: Family) -> Iterator[str]:
    """Yield what a model of an unknown class does that cannot be shortened."""
    base = family.base_model(model)
    decoder: Any = base.get_submodule(family.decoder)
    kinds = set(getattr(decoder.config, "layer_types", None) or ()) - {"full_attention"}
    if kinds:
        yield f"layers of kind {', '.join(sorted(kinds))}"
    names = {*_settings(decoder.config.to_dict())}
    for part in (model, base, decoder, decoder.layers[0], decoder.layers[-1]):
        names |= {*dir(type(part)), *vars(part), *argument_names(part)}
    names -= {*dir(PreTrainedModel), *dir(GenerationMixin)}  # what every model has
    for word, reason in DANGERS.items():
        if any(word in name for name in names):
            yield reason


def argument_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of what a module's forward takes."""
    return tuple(inspect.signature(type(module).forward).parameters)


def _settings(config: dict[str, Any]) -> Iterator[str]:
    """Name the config's fields that are set, nested ones included."""
    for name, value in config.items():
        if value:
            yield str(name)
        if isinstance(value, dict):
            yield from _settings(value)
