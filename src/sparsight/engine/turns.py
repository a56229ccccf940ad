"""What a later turn on the cache needs of the earlier ones: their cache whole, and their offset of positions.

Private details of transformers touched here: `layers` of a cache, their `get_seq_length` and
`crop`, and `rope_deltas`, which models with M-RoPE note on themselves in a prefill.
"""

from typing import Any

from torch import nn
from transformers import Cache

OFFSET = "rope_deltas"


def cache_lengths(cache: Cache) -> tuple[int, ...]:
    """Return the logical length of each layer of a cache."""
    layers: Any = cache.layers
    return tuple(int(layer.get_seq_length()) for layer in layers)


def cut_back(cache: Cache, lengths: tuple[int, ...]) -> Cache | None:
    """Cut a cache back to what its layers held before a pass that broke off, at whichever layer.

    Returns: the cache; None if a layer cannot forget its last tokens, as a full sliding window.
    """
    layers: Any = cache.layers
    try:
        for layer, length in zip(layers, lengths, strict=True):
            more = int(layer.get_seq_length()) - length
            if more > 0:
                layer.crop(-more)
    except Exception:  # whatever kind of layer it is
        return None
    return cache if cache_lengths(cache) == lengths else None


def position_offset(base: nn.Module) -> Any:
    """Return what a model with M-RoPE has noted of its last prompt, to be restored when that prompt goes on."""
    return vars(base).get(OFFSET)


def restore_position_offset(base: nn.Module, offset: Any) -> None:
    """Have a model with M-RoPE go on with the prompt whose offset is given; others are left as they are."""
    if OFFSET in vars(base):
        vars(base)[OFFSET] = offset
