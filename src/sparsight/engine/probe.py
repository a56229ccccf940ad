"""Probes a model of an unregistered class: runs a few tokens before the engine is attached to it.

What the engine takes for granted of registered classes is checked here: which arguments decoder
layers get, that masks are causal and hide padding only, that rotary tables are those of one
position per token, and that every layer stores its keys. Private details of transformers touched
here: the arguments of text decoders and decoder layers, and the call of `rotary_emb`.
"""

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from sparsight.engine.checks import PER_TOKEN
from sparsight.engine.compat import CACHE, CACHE_NAMES, cache_argument, name_arguments
from sparsight.engine.parts import Parts
from sparsight.errors import UnsupportedError

LENGTH, PADDING = 12, 3  # tokens of each of two rows; padding in front of the second row


@dataclass
class Calls:
    """The arguments that the parts of a model got in one pass.

    Args:
        decoder: arguments of the text decoder, by name.
        layers: of each layer in order, its positional and its named arguments.
    """

    decoder: dict[str, Any] = field(default_factory=dict)
    layers: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)


def probe(parts: Parts) -> None:
    """Check, by running a few text tokens, that the engine can prune a model.

    Raises: UnsupportedError: it cannot; the message says what is unlike registered models.
    """
    name, cache = type(parts.model).__name__, DynamicCache()
    base = cast("Any", parts.base)
    device = next(parts.decoder.parameters()).device
    real = torch.ones(2, LENGTH, dtype=torch.int64, device=device)
    real[1, :PADDING] = 0
    try:
        ids = _make_ids(parts).to(device)
        prompt = {"input_ids": ids}
        if parts.marked:
            prompt = {"inputs_embeds": base.get_input_embeddings()(ids)}
        calls = _record_calls(parts, {**prompt, "attention_mask": real}, cache)
    except Exception as error:  # each unknown model fails in its own way
        raise UnsupportedError(f"{name} could not be probed with a text prompt: {error}") from error
    oddity = (
        _find_odd_decoder(calls.decoder)
        or _find_odd_layers(parts, calls, real.bool())
        or _find_odd_cache(cache, len(parts.layers))
    )
    if oddity:
        raise UnsupportedError(
            f"{name} is not of a supported class, and cannot be hosted: {oddity}."
        )


def _make_ids(parts: Parts) -> torch.Tensor:
    """Return token ids that are no visual placeholders, (2, LENGTH) int64."""
    visual = parts.family.placeholder_ids(parts.config)
    ids = [i for i in range(LENGTH + len(visual)) if i not in visual]
    return torch.tensor(ids[:LENGTH]).expand(2, -1)


@torch.no_grad()
def _record_calls(parts: Parts, inputs: dict[str, Any], cache: DynamicCache) -> Calls:
    """Run the base model and return the arguments that its decoder and layers got."""
    calls = Calls()

    def on_decoder(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.decoder.update(name_arguments(module, args, kwargs))

    def on_layer(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.layers.append((args, kwargs))

    handles = [parts.decoder.register_forward_pre_hook(on_decoder, with_kwargs=True)]
    handles += [
        layer.register_forward_pre_hook(on_layer, with_kwargs=True) for layer in parts.layers
    ]
    try:
        parts.base(**inputs, **cache_argument(parts.base, cache))
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _find_odd_decoder(arguments: dict[str, Any]) -> str:
    """Return what is odd about the arguments of the text decoder; "" if nothing is."""
    mask, positions = arguments.get("attention_mask"), arguments.get("position_ids")
    if arguments.get("inputs_embeds") is None:
        return "its base model hands the text decoder no inputs_embeds"
    if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
        return (
            "its base model hands the text decoder a mask of its own making instead of the 2-D one"
        )
    if positions is not None and positions.ndim != 2:
        return f"its base model hands the text decoder positions of {positions.ndim} dimensions"
    others = arguments.keys() - {"inputs_embeds", "attention_mask", "position_ids", CACHE}
    odd = sorted(name for name in others if not _is_setting(arguments[name]))
    return f"its base model hands the text decoder {', '.join(odd)}" if odd else ""


def _is_setting(value: object) -> bool:
    """Return whether an argument is a plain value, which cannot hold one number per token."""
    return value is None or isinstance(value, (bool, int, float, str))


def _find_odd_layers(parts: Parts, calls: Calls, real: torch.Tensor) -> str:
    """Return what is odd about the calls of the decoder layers; "" if nothing is."""
    if len(calls.layers) != len(parts.layers):
        return f"{len(calls.layers)} of its {len(parts.layers)} decoder layers ran"
    for args, kwargs in calls.layers:
        oddity = _find_odd_layer(parts, args, kwargs, real)
        if oddity:
            return oddity
    return ""


def _find_odd_layer(
    parts: Parts, args: tuple[Any, ...], kwargs: dict[str, Any], real: torch.Tensor
) -> str:
    """Return what is odd about the arguments of one decoder layer; "" if nothing is."""
    others = kwargs.keys() - PER_TOKEN - {*CACHE_NAMES}
    odd = [name for name in others if not _is_setting(kwargs[name])]
    complete = kwargs.keys() >= PER_TOKEN and bool(kwargs.keys() & {*CACHE_NAMES})
    if len(args) != 1 or odd or not complete:
        names = ", ".join(sorted(kwargs))
        return f"its decoder layers get {len(args)} arguments by position and {names} by name"
    if not _is_causal(kwargs["attention_mask"], real):
        return "its decoder layers get masks that are not causal or hide more than padding"
    return _find_odd_tables(parts, args[0], kwargs["position_embeddings"], kwargs["position_ids"])


def _find_odd_tables(
    parts: Parts, hidden: torch.Tensor, tables: Any, positions: torch.Tensor
) -> str:
    """Return what is odd about a layer's rotary tables; "" if nothing is."""
    if positions.ndim != 2 or not isinstance(tables, tuple) or len(tables) != 2:
        return "its decoder layers get no rotary table of one cosine and one sine"
    pairs = zip(tables, parts.decoder.rotary_emb(hidden, positions), strict=True)
    if not all(table.ndim == 3 and torch.equal(table, expected) for table, expected in pairs):
        return "its rotary tables are not those of rotary_emb and the position_ids"
    return ""


def _is_causal(mask: object, real: torch.Tensor) -> bool:
    """Return whether a mask lets every real token see the real tokens up to itself, and no others.

    Args:
        mask: that a decoder layer got.
        real: (B, L) bool, False for padding.
    """
    if not isinstance(mask, torch.Tensor) or mask.ndim != 4:
        return False
    allowed = mask if mask.dtype == torch.bool else mask == 0  # (B or 1, H or 1, L, L)
    causal = real[:, None] & real.new_ones(real.shape[1], real.shape[1]).tril()  # (B, L, L)
    rows_equal = (allowed == causal[:, None]).all(dim=-1).all(dim=1)  # (B, L)
    return bool(rows_equal[real].all())  # what padding sees does not matter


def _find_odd_cache(cache: DynamicCache, layers: int) -> str:
    """Return what is odd about the cache after the pass; "" if nothing is."""
    kinds = sorted({type(layer).__name__ for layer in cache.layers} - {DynamicLayer.__name__})
    if kinds:
        return f"its cache has layers of kind {', '.join(kinds)}"
    stored = [cache.get_seq_length(index) for index in range(len(cache.layers))]
    if stored != [LENGTH] * layers:
        return f"its cache layers stored {stored} of {LENGTH} tokens"
    return ""
