"""Makes a family for a model of an unregistered class that has its parts where LLaVA has them.

Features of unknown text decoders that the engine cannot handle are recognised by names of
attributes, arguments and config fields, and refused by name. Only the structure is read, so that a
model without weights can be checked; the engine's probe then runs a few tokens. Private details of
transformers touched here: paths of text decoders and their layers, `rotary_emb` and `inv_freq`,
parts of decoder layers, `is_causal` of attention modules, and the names in DANGERS.
"""

import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import GenerationMixin, PreTrainedModel

from sparsight.errors import UnsupportedError
from sparsight.families.family import BOTH_IDS, Family

PARTS = frozenset({"self_attn", "mlp"})  # of a decoder layer, besides norms and dropout
EXPERTS = "a mixture of experts, whose costs are not known"
# by parts of names of attributes, arguments, or config fields that are set: what they show
DANGERS = {
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
    """Return a family for a model of an unregistered class, with the paths of its parts.

    Raises: UnsupportedError: parts are missing, or have features that cannot be pruned; the message
        names each of them.
    """
    name = type(model).__name__
    for base, decoder in _find_paths(model):
        family = Family(
            name="generic",
            classes=(name,),
            base=base,
            decoder=decoder,
            visual_ids=BOTH_IDS,
            features=_find_features(model, base),
            probed=True,
        )
        reasons = [*_find_missing(model, family), *find_dangers(model, family)]
        if reasons:
            raise UnsupportedError(
                f"{name} is not of a supported class, and cannot be hosted by its parts: "
                f"{_join(reasons)}."
            )
        return family
    raise UnsupportedError(
        f"{name} is not of a supported class, and has no text decoder at language_model or "
        "text_model with layers of its own; `sparsight models` lists the supported model classes."
    )


def text_family(model: nn.Module) -> Family:
    """Return a family for a text model whose caller gives and marks the visual tokens.

    Raises: UnsupportedError: the model is no text model, or has features that cannot be pruned; the
        message names each of them.
    """
    name = type(model).__name__
    base = "" if isinstance(getattr(model, "layers", None), nn.ModuleList) else "model"
    decoder = getattr(model, base) if hasattr(model, base) else model
    if not isinstance(getattr(decoder, "layers", None), nn.ModuleList):
        raise UnsupportedError(
            f"visual_mask is for text models with decoder layers at model.layers or layers; {name} "
            "has none there. The token ids of a vision-language model show its visual tokens: "
            "leave visual_mask out."
        )
    family = Family(
        "text", (name,), base, decoder="", visual_ids=(), features=("inputs_embeds",), probed=True
    )
    reasons = [*_find_odd_parts(decoder), *find_dangers(model, family)]
    if reasons:
        raise UnsupportedError(
            f"the text model {name} cannot be hosted by its parts: {_join(reasons)}."
        )
    return family


def _join(reasons: list[str]) -> str:
    """Return reasons as one text, each of them once."""
    return "; ".join(dict.fromkeys(reasons))


def _find_paths(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield paths to a base model, and from it to a text decoder with layers."""
    for base in ("model", ""):
        part = getattr(model, base, None) if base else model
        for decoder in ("language_model", "text_model"):
            layers = getattr(getattr(part, decoder, None), "layers", None)
            if isinstance(layers, nn.ModuleList) and len(layers):
                yield base, decoder


def _find_features(model: nn.Module, base: str) -> tuple[str, ...]:
    """Return the names of arguments by which a model or its base model takes images."""
    names = {*read_argument_names(model), *read_argument_names(model.get_submodule(base))}
    features = (name for name in names if "pixel_values" in name or name == "mm_encoder_outputs")
    return tuple(sorted(features))


def _find_missing(model: nn.Module, family: Family) -> Iterator[str]:
    """Yield what a model lacks that LLaVA has."""
    base: Any = family.base_model(model)
    decoder: Any = base.get_submodule(family.decoder)
    takes_pixels = any("pixel_values" in name for name in family.features)
    if not takes_pixels or "input_ids" not in read_argument_names(base):
        yield "its forward takes no input_ids with pixel_values"
    if not family.placeholder_ids(base.config):
        yield f"its config has none of {', '.join(BOTH_IDS)}"
    yield from _find_odd_parts(decoder)


def _find_odd_parts(decoder: Any) -> Iterator[str]:
    """Yield how the parts of a text decoder differ from Llama's."""
    if not hasattr(getattr(decoder, "rotary_emb", None), "inv_freq"):
        yield "its text decoder has no rotary_emb with inv_freq"
    for layer in decoder.layers:
        parts = {
            name
            for name, part in layer.named_children()
            if "norm" not in name and "dropout" not in name
        }
        if parts != PARTS:
            names = ", ".join(sorted(parts))
            yield f"its decoder layers are made of {names} instead of self_attn and mlp"
        attention = getattr(layer, "self_attn", None)
        if not getattr(attention, "is_causal", True):
            yield "its attention is not causal"
        if attention is not None and "position_ids" in read_argument_names(attention):
            yield "its attention reads position_ids, past the rotary table"


def find_dangers(model: nn.Module, family: Family) -> Iterator[str]:
    """Yield the features of an unregistered model that cannot be pruned."""
    base = family.base_model(model)
    decoder: Any = base.get_submodule(family.decoder)
    kinds = set(getattr(decoder.config, "layer_types", None) or ()) - {"full_attention"}
    if kinds:
        yield f"layers of kind {', '.join(sorted(kinds))}"
    names = {*_iterate_settings(decoder.config.to_dict())}
    for part in (model, base, decoder, decoder.layers[0], decoder.layers[-1]):
        names |= {*dir(type(part)), *vars(part), *read_argument_names(part)}
    names -= {*dir(PreTrainedModel), *dir(GenerationMixin)}  # every model has these
    for word, reason in DANGERS.items():
        if any(word in name for name in names):
            yield reason


def read_argument_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the arguments that a module's forward takes."""
    return tuple(inspect.signature(type(module).forward).parameters)


def _iterate_settings(config: dict[str, Any]) -> Iterator[str]:
    """Yield the names of a config's fields that are set, those of nested configs included."""
    for name, value in config.items():
        if value:
            yield str(name)
        if isinstance(value, dict):
            yield from _iterate_settings(value)
