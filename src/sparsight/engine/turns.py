"""What a later turn of a conversation needs of the earlier turns: their cache, and their positions.

Private details of transformers touched here: `layers` of a cache, their `get_seq_length` and
`crop`, and `rope_deltas`, an attribute that a prefill sets on models with M-RoPE.
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
    """Crop each layer of a cache to its length before a pass that was interrupted.

    Args:
        cache: that the interrupted pass has filled up to some layer.
        lengths: logical length of each layer before that pass.
    Returns: the cache; None if a layer cannot be cropped, as a full sliding window cannot.
    """
    layers: Any = cache.layers
    try:
        for layer, length in zip(layers, lengths, strict=True):
            added = int(layer.get_seq_length()) - length
            if added > 0:
                layer.crop(-added)
    except Exception:  # each class of cache layer refuses in its own way
        return None
    return cache if cache_lengths(cache) == lengths else None


def position_offset(base: nn.Module) -> Any:
    """Return the position offset that the last prefill set on a model with M-RoPE, else None.

    It must be restored before a later turn continues that prompt.
    """
    return vars(base).get(OFFSET)


def restore_position_offset(base: nn.Module, offset: Any) -> None:
    """Set the position offset of a model with M-RoPE; other models are left as they are."""
    if OFFSET in vars(base):
        vars(base)[OFFSET] = offset
