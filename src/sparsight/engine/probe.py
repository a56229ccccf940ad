"""The probe: watches a few tokens go through a model of a class that nobody registered, before it is hooked.

What the parts takes for granted is looked at here: which arguments run beside the hidden states,
that masks are causal less the padding, that rotary tables are those of one position a token, and
that every layer stores its keys.
"""

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from sparsight.engine.checks import PER_TOKEN
from sparsight.engine.compat import CACHE, CACHE_NAMES, cache_argument, named
from sparsight.engine.parts import Parts
from sparsight.errors import UnsupportedError

LENGTH, PADDING = 12, 3  # tokens of two rows, the second one padded in front
OTHERS = frozenset(
    CACHE_NAMES
)  # layer arguments that are no plain settings, besides those that get shortened


@dataclass
class Seen:
    """What went by.

    Args:
        decoder: arguments of the text decoder.
        layers: of each layer, its positional and its named arguments.
    """

    decoder: dict[str, Any] = field(default_factory=dict)
    layers: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)


def probe(parts: Parts) -> None:
    """Check by running a few words that a model can be hosted.

    Raises: UnsupportedError: it cannot; the message says what was seen.
    """
    name, base, cache = type(parts.model).__name__, cast("Any", parts.base), DynamicCache()
    device = next(parts.decoder.parameters()).device
    real = torch.ones(2, LENGTH, dtype=torch.int64, device=device)
    real[1, :PADDING] = 0
    try:
        words = _words(parts).to(device)
        own = {"input_ids": words}
        if parts.marked:
            own = {"inputs_embeds": base.get_input_embeddings()(words)}
        seen = _watch(parts, {**own, "attention_mask": real}, cache)
    except Exception as error:  # whatever a model of unknown make raises
        raise UnsupportedError(f"{name} could not be probed with a text prompt: {error}") from error
    found = (
        _decoder(seen.decoder)
        or _layers(parts, seen, real.bool())
        or _cache(cache, len(parts.layers))
    )
    if found:
        raise UnsupportedError(
            f"{name} is not of a supported class, and cannot be hosted: {found}."
        )


def _words(parts: Parts) -> torch.Tensor:
    config: Any = parts.config
    visual = parts.family.placeholder_ids(config)
    return torch.tensor(
        [i for i in range(LENGTH + len(visual)) if i not in visual][:LENGTH]
    ).expand(2, -1)


@torch.no_grad()
def _watch(parts: Parts, inputs: dict[str, Any], cache: DynamicCache) -> Seen:
    seen = Seen()

    def on_decoder(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.decoder.update(named(module, args, kwargs))

    def on_layer(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.layers.append((args, kwargs))

    handles = [parts.decoder.register_forward_pre_hook(on_decoder, with_kwargs=True)]
    handles += [
        layer.register_forward_pre_hook(on_layer, with_kwargs=True) for layer in parts.layers
    ]
    try:
        parts.base(**inputs, **cache_argument(parts.base, cache))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _decoder(given: dict[str, Any]) -> str:
    mask, places = given.get("attention_mask"), given.get("position_ids")
    if given.get("inputs_embeds") is None:
        return "its base model hands the text decoder no inputs_embeds"
    if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
        return (
            "its base model hands the text decoder a mask of its own making instead of the 2-D one"
        )
    if places is not None and places.ndim != 2:
        return f"its base model hands the text decoder positions of {places.ndim} dimensions"
    beside = given.keys() - {"inputs_embeds", "attention_mask", "position_ids", CACHE}
    odd = sorted(name for name in beside if not _plain(given[name]))
    return f"its base model hands the text decoder {', '.join(odd)}" if odd else ""


def _plain(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _layers(parts: Parts, seen: Seen, real: torch.Tensor) -> str:
    if len(seen.layers) != len(parts.layers):
        return f"{len(seen.layers)} of its {len(parts.layers)} decoder layers ran"
    for args, kwargs in seen.layers:
        found = _layer(parts, args, kwargs, real)
        if found:
            return found
    return ""


def _layer(parts: Parts, args: tuple[Any, ...], kwargs: dict[str, Any], real: torch.Tensor) -> str:
    """Return what is odd about the arguments of one decoder layer; "" if nothing is."""
    known = PER_TOKEN | OTHERS
    odd = [name for name, value in kwargs.items() if name not in known and not _plain(value)]
    complete = kwargs.keys() >= PER_TOKEN and bool(kwargs.keys() & OTHERS)
    if len(args) != 1 or odd or not complete:
        names = ", ".join(sorted(kwargs))
        return f"its decoder layers get {len(args)} arguments by place and {names} by name"
    if not _causal(kwargs["attention_mask"], real):
        return "its decoder layers get masks that are not causal less the padding"
    return _tables(parts, args[0], kwargs["position_embeddings"], kwargs["position_ids"])


def _tables(parts: Parts, hidden: torch.Tensor, tables: Any, positions: torch.Tensor) -> str:
    """Return what is odd about a layer's rotary tables; "" if nothing is."""
    if positions.ndim != 2 or not isinstance(tables, tuple) or len(tables) != 2:
        return "its decoder layers get no rotary table of one cosine and one sine"
    pairs = zip(tables, parts.decoder.rotary_emb(hidden, positions), strict=True)
    if not all(table.ndim == 3 and torch.equal(table, expected) for table, expected in pairs):
        return "its rotary tables are not those of rotary_emb and the position_ids"
    return ""


def _causal(mask: object, real: torch.Tensor) -> bool:
    """Return whether a mask lets every real token see the real ones up to itself, and no others."""
    if not isinstance(mask, torch.Tensor) or mask.ndim != 4:
        return False
    allowed = mask if mask.dtype == torch.bool else mask == 0
    wanted = real[:, None] & real.new_ones(real.shape[1], real.shape[1]).tril()  # (B, L, L)
    same = (allowed == wanted[:, None]).all(dim=-1).all(dim=1)  # (B, L) by row
    return bool(same[real].all())


def _cache(cache: DynamicCache, layers: int) -> str:
    kinds = sorted({type(layer).__name__ for layer in cache.layers} - {DynamicLayer.__name__})
    if kinds:
        return f"its cache has layers of kind {', '.join(kinds)}"
    stored = [cache.get_seq_length(index) for index in range(len(cache.layers))]
    return (
        ""
        if stored == [LENGTH] * layers
        else f"its cache layers stored {stored} of {LENGTH} tokens"
    )
