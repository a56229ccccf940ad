"""Caches of transformers that can be pruned: checks of their kind, and the writing of ledgers.

A ledger says which slots a cache layer stores (`ledger.py`). Private details of transformers
touched here: `layers`, `layer_class_to_replicate` and `offloading` of a cache; `keys` and
`is_initialized` of its layers; `cumulative_length`, `sliding_window` and `record_past` of
sliding-window layers; that an instance of a cache layer may change its class.
"""

import functools
import weakref
from typing import cast

from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from sparsight.engine.ledger import LedgerLayer, Owner, Record, SlidingLedgerLayer
from sparsight.errors import TESTED_WITH, UnsupportedError

CACHE_PARTS = {
    DynamicCache: ("layers", "layer_class_to_replicate", "offloading"),
    DynamicLayer: ("keys", "values", "is_initialized"),
    DynamicSlidingWindowLayer: (
        "keys",
        "values",
        "is_initialized",
        "cumulative_length",
        "sliding_window",
        "record_past",
    ),
}
LAYER_METHODS = (
    *("update", "get_seq_length", "crop", "reset"),
    *("reorder_cache", "batch_repeat_interleave", "batch_select_indices"),
)
FULL_LAYERS = (DynamicLayer, LedgerLayer)
SLIDING_LAYERS = (DynamicSlidingWindowLayer, SlidingLedgerLayer)


@functools.cache
def check_cache_classes() -> None:
    """Check that transformers' cache classes have the attributes that the ledger uses.

    Raises: UnsupportedError: an attribute or a method has another name in this release.
    """
    instances = (DynamicCache(), DynamicLayer(), DynamicSlidingWindowLayer(sliding_window=4))  # type: ignore[no-untyped-call]
    missing = [
        f"{type(part).__name__}.{name}"
        for part in instances
        for name in CACHE_PARTS[type(part)]
        if not hasattr(part, name)
    ]
    missing += [
        f"DynamicLayer.{name}()" for name in LAYER_METHODS if not hasattr(DynamicLayer, name)
    ]
    if not hasattr(DynamicSlidingWindowLayer, "activate_past_recording"):
        missing.append("DynamicSlidingWindowLayer.activate_past_recording()")
    if missing:
        raise UnsupportedError(f"transformers' cache has no {', '.join(missing)}; {TESTED_WITH}.")


def get_cache_layer(cache: Cache, index: int, *, sliding: bool = False) -> DynamicLayer:
    """Return one layer of a cache, created if the cache makes its layers lazily.

    Args:
        cache: of the decoder.
        index: of the decoder layer.
        sliding: whether the decoder layer attends within a sliding window, so that its cache layer
            may drop entries that have left the window.
    Raises: UnsupportedError: a kind of cache layer whose length cannot be kept by a ledger.
    """
    while len(cache.layers) <= index and cache.layer_class_to_replicate is not None:
        cache.layers.append(cache.layer_class_to_replicate())
    layer = cache.layers[index]
    allowed = FULL_LAYERS + SLIDING_LAYERS if sliding else FULL_LAYERS
    if type(layer) not in allowed or cache.offloading:
        kind = f"offloaded {type(cache).__name__}" if cache.offloading else type(layer).__name__
        wanted = "DynamicCache" if sliding else "DynamicCache without a sliding window"
        raise UnsupportedError(f"a cache of kind {kind} cannot be pruned; use {wanted}.")
    if getattr(layer, "record_past", False):
        raise UnsupportedError(
            "a sliding cache that records its past cannot be pruned; use a new DynamicCache."
        )
    return cast("DynamicLayer", layer)


def has_ledger(cache: Cache | None) -> bool:
    """Return whether any layer of a cache has been pruned."""
    return cache is not None and any(isinstance(layer, LedgerLayer) for layer in cache.layers)


def find_ledger(cache: Cache, index: int) -> LedgerLayer | None:
    """Return one layer of a cache if it has been pruned, else None."""
    layer = cache.layers[index] if index < len(cache.layers) else None
    return layer if isinstance(layer, LedgerLayer) else None


def check_written(cache: Cache | None, index: int) -> None:
    """Check that the cache that a pruned pass filled has a ledger at one layer.

    Raises: UnsupportedError: it has none, so that decoding would continue at wrong positions.
    """
    if cache is not None and find_ledger(cache, index) is None:
        raise UnsupportedError(
            f"decoder layer {index} filled a cache that it was not handed under a known name; "
            f"{TESTED_WITH}."
        )


def read_windows(cache: Cache | None) -> tuple[int, ...]:
    """Return each cache layer's sliding window, 0 for none; () where no layer slides."""
    layers = () if cache is None else cache.layers
    windows = tuple(
        int(layer.sliding_window) if isinstance(layer, DynamicSlidingWindowLayer) else 0
        for layer in layers
    )
    return windows if any(windows) else ()


def count_stored(layer: DynamicLayer) -> int:
    """Return the entries per sample that a cache layer holds in memory."""
    if isinstance(layer, LedgerLayer):
        return layer.stored
    keys = layer.keys if layer.is_initialized else None
    return 0 if keys is None or not keys.numel() else int(keys.shape[-2])


def write_record(layer: DynamicLayer, record: Record, length: int, owner: Owner) -> None:
    """Write a cache layer's ledger: what the layer will hold after the update that follows.

    An ordinary layer becomes one with a ledger in place, by changing its class, because callers may
    hold the cache and its layers already.

    Args:
        layer: of the cache, before the update.
        record: all entries after the update, those stored before included.
        length: logical length after the update.
        owner: the engine that prunes.
    """
    added = record.slots.shape[1] - count_stored(layer)
    if not isinstance(layer, LedgerLayer):
        slides = isinstance(layer, DynamicSlidingWindowLayer)
        layer.__class__ = SlidingLedgerLayer if slides else LedgerLayer
    ledger = cast("LedgerLayer", layer)
    ledger.record = record
    ledger.removed = length - record.slots.shape[1]
    ledger.owner = weakref.ref(owner)
    if isinstance(ledger, SlidingLedgerLayer):
        # the update that follows adds the entries of this pass to this count by itself
        ledger.cumulative_length = length - added
