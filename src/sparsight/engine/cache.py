"""The ledger: a cache layer that stores short keys and values and keeps reporting the logical length.

transformers asks one cache layer for *the* length and derives positions, masks and prompt slices
from it. A pruned layer therefore answers with the logical length (nothing removed) and a ledger
says which slots it really stores. Private details of transformers touched here: `DynamicLayer` and
`DynamicSlidingWindowLayer`, whose instances change class while they are pruned, and the latter's
`cumulative_length`, `sliding_window` and `record_past`.
"""

import functools
import weakref
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from sparsight.errors import TESTED_WITH, AttachError, UnsupportedError


class Owner(Protocol):
    """Whoever shortens the sequence, and must be there when the cache is used again."""

    attached: bool
    base: nn.Module

    @property
    def running(self) -> bool:
        """Whether its model runs now."""


@dataclass(frozen=True, eq=False)  # compared and hashed by identity
class Record:
    """What was stored when the ledger was last written; everything after it is stored one to one.

    Args:
        slots: (B, P) int64, index in the logical sequence of each stored entry.
        valid: (B, P) bool, False for fillers and padding; None if all are valid.
    """

    slots: torch.Tensor
    valid: torch.Tensor | None

    def take(self, samples: torch.Tensor) -> "Record":
        """Return the record with the batch indexed by `samples`."""
        chosen = samples.to(self.slots.device)
        return Record(self.slots[chosen], None if self.valid is None else self.valid[chosen])


class LedgerLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # transformers' __init_subclass__
    """A dynamic cache layer with a ledger.

    `skew` is what the logical length was, when the record was written, minus the entries of the
    record.
    """

    _layer_type = None  # transformers puts classes that name a type into its tables
    _plain: type[DynamicLayer] = DynamicLayer
    record: Record
    skew: int
    torn: bool = False
    owner: "weakref.ref[Owner]"

    @property
    def stored(self) -> int:
        """Entries per sample in memory."""
        return int(self.keys.shape[-2]) if self.is_initialized and self.keys is not None else 0

    @property
    def tail(self) -> int:
        """Entries that came since the record was written."""
        return self.get_seq_length() - self.skew - self.record.slots.shape[1]

    def current_slots(self) -> torch.Tensor:
        """Return the slots of all entries stored: (B, n) int64."""
        slots, start = self.record.slots, self.record.slots.shape[1] + self.skew
        new = torch.arange(start, start + self.tail, device=slots.device).expand(len(slots), -1)
        return torch.cat([slots, new], dim=1)[
            :, -self.stored :
        ]  # a sliding layer forgets the first ones

    def current_valid(self) -> torch.Tensor | None:
        """Return which entries stored are valid: (B, n) bool, None if all are."""
        valid = extend(self.record.valid, self.tail)
        return None if valid is None else valid[:, -self.stored :]

    def get_seq_length(self) -> int:
        """Return the logical length."""
        return self.stored + self.skew if self.stored else 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new entries.

        Raises: AttachError: the sparsify block that pruned this cache has ended.
        """
        if self.torn:
            raise AttachError(
                "this cache is torn: a crop into its pruned prompt was refused; prefill again."
            )
        owner = self.owner()
        if owner is None or not owner.attached:
            raise AttachError(
                "this cache was pruned in a sparsify block that has ended; stay inside the block or start a new cache."
            )
        if not owner.running:
            raise AttachError(
                "this cache was pruned by another model's sparsify block; use it with that model alone."
            )
        result: tuple[torch.Tensor, torch.Tensor] = super().update(
            key_states, value_states, *args, **kwargs
        )
        return result

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens.

        Raises: UnsupportedError: the removal reaches into the pruned part of the prompt.
        """
        count = abs(tokens_to_remove)
        recorded = max(0, count - self.tail)
        if recorded:
            slots, end = self.record.slots, self.record.slots.shape[1] + self.skew
            wanted = torch.arange(end - recorded, end, device=slots.device)
            if recorded > slots.shape[1] or not bool((slots[:, -recorded:] == wanted).all()):
                self.torn = True  # layers before the first site have been cropped already
                raise UnsupportedError(
                    f"removing {count} tokens reaches into the pruned prompt; prefill again with a new cache."
                )
        super().crop(tokens_to_remove)
        if recorded:
            valid = self.record.valid
            self.record = Record(
                self.record.slots[:, :-recorded], None if valid is None else valid[:, :-recorded]
            )

    def reset(self) -> None:
        """Empty the layer, which is an ordinary one from now on."""
        del self.record, self.skew, self.owner
        vars(self).pop("torn", None)
        self.__class__ = self._plain  # type: ignore[assignment]
        self.reset()

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Reorder the batch for beam search."""
        super().reorder_cache(beam_idx)
        self.record = self.record.take(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sample."""
        super().batch_repeat_interleave(repeats)
        samples = torch.arange(len(self.record.slots), device=self.record.slots.device)
        self.record = self.record.take(samples.repeat_interleave(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some samples."""
        super().batch_select_indices(indices)
        self.record = self.record.take(indices)


class SlidingLedgerLayer(LedgerLayer, DynamicSlidingWindowLayer):  # type: ignore[no-untyped-call]
    """A sliding cache layer with a ledger: its tail of W - 1 entries holds all that lie in the logical window.

    transformers counts its length apart from what it stores, so that count alone is made logical.
    """

    _plain = DynamicSlidingWindowLayer

    def get_seq_length(self) -> int:
        """Return the logical length."""
        return int(self.cumulative_length)

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens.

        Raises: UnsupportedError: tokens that the window had pushed out would have to come back, or
            the removal reaches into the pruned part of the prompt.
        """
        if not tokens_to_remove:
            return
        length = self.get_seq_length()
        if length >= self.sliding_window:
            self.torn = True  # other layers may have been cropped already
            raise UnsupportedError(
                f"a sliding window of {self.sliding_window} has forgotten what stood before its {length} tokens; "
                "prefill again with a new cache."
            )
        super().crop(tokens_to_remove)
        self.cumulative_length = length - abs(tokens_to_remove)

    def activate_past_recording(self) -> None:
        """Refuse to keep what the window pushes out.

        Raises: UnsupportedError: always.
        """
        raise UnsupportedError(
            "candidate tokens cannot be taken back from a pruned sliding window; decode plainly."
        )


def extend(valid: torch.Tensor | None, count: int) -> torch.Tensor | None:
    """Append `count` valid entries."""
    return (
        valid
        if valid is None or not count
        else torch.cat([valid, valid.new_ones(len(valid), count)], dim=1)
    )


def cache_layer(cache: Cache, layer: int, *, sliding: bool = False) -> DynamicLayer:
    """Return one layer of a cache, created if the cache makes its layers lazily.

    Args: sliding: whether the decoder layer attends within a window, so that its cache layer may
    forget the rest.
    Raises: UnsupportedError: a kind of cache layer whose length cannot be kept by a ledger.
    """
    while len(cache.layers) <= layer and cache.layer_class_to_replicate is not None:
        cache.layers.append(cache.layer_class_to_replicate())
    found = cache.layers[layer]
    known = (
        DynamicLayer,
        LedgerLayer,
        *((DynamicSlidingWindowLayer, SlidingLedgerLayer) if sliding else ()),
    )
    if type(found) not in known or cache.offloading:
        kind = f"offloaded {type(cache).__name__}" if cache.offloading else type(found).__name__
        wanted = "DynamicCache" if sliding else "DynamicCache without a sliding window"
        raise UnsupportedError(f"a cache of kind {kind} cannot be pruned; use {wanted}.")
    if getattr(found, "record_past", False):
        raise UnsupportedError(
            "a sliding cache that records its past cannot be pruned; use a new DynamicCache."
        )
    return cast("DynamicLayer", found)


def has_ledger(cache: Cache | None) -> bool:
    """Return whether any layer of a cache has been pruned."""
    return cache is not None and any(isinstance(layer, LedgerLayer) for layer in cache.layers)


def ledger_at(cache: Cache, index: int) -> LedgerLayer | None:
    """Return one layer of a cache if it has been pruned."""
    layer = cache.layers[index] if index < len(cache.layers) else None
    return layer if isinstance(layer, LedgerLayer) else None


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


@functools.cache
def check_cache_classes() -> None:
    """Check that transformers' cache is made of the parts that the ledger stands on.

    Raises: UnsupportedError: an attribute or a method is not there by its name.
    """
    made = (DynamicCache(), DynamicLayer(), DynamicSlidingWindowLayer(sliding_window=4))  # type: ignore[no-untyped-call]
    gone = [
        f"{type(part).__name__}.{name}"
        for part in made
        for name in CACHE_PARTS[type(part)]
        if not hasattr(part, name)
    ]
    gone += [f"DynamicLayer.{name}()" for name in LAYER_METHODS if not hasattr(DynamicLayer, name)]
    if not hasattr(DynamicSlidingWindowLayer, "activate_past_recording"):
        gone.append("DynamicSlidingWindowLayer.activate_past_recording()")
    if gone:
        raise UnsupportedError(f"transformers' cache has no {', '.join(gone)}; {TESTED_WITH}.")


def check_written(cache: Cache | None, index: int) -> None:
    """Check that a cache that comes out of a shortened pass knows that it is short.

    Raises: UnsupportedError: it does not, so that decoding would go on at wrong positions.
    """
    if cache is not None and ledger_at(cache, index) is None:
        raise UnsupportedError(
            f"decoder layer {index} filled a cache that it was not handed under a known name; {TESTED_WITH}."
        )


def cache_windows(cache: Cache | None) -> tuple[int, ...]:
    """Return each cache layer's sliding window, 0 for none; () where no layer slides."""
    layers = () if cache is None else cache.layers
    found = tuple(
        int(layer.sliding_window) if isinstance(layer, DynamicSlidingWindowLayer) else 0
        for layer in layers
    )
    return found if any(found) else ()


def stored_length(layer: DynamicLayer) -> int:
    """Return the entries per sample in memory."""
    if isinstance(layer, LedgerLayer):
        return layer.stored
    keys = layer.keys if layer.is_initialized else None
    return 0 if keys is None or not keys.numel() else int(keys.shape[-2])


def write(layer: DynamicLayer, record: Record, length: int, owner: Owner) -> None:
    """Note that the entries of `record` are what the layer will hold after the update that follows.

    Args: length: logical length after that update.
    """
    added = record.slots.shape[1] - stored_length(layer)
    if not isinstance(layer, LedgerLayer):
        layer.__class__ = (
            SlidingLedgerLayer if isinstance(layer, DynamicSlidingWindowLayer) else LedgerLayer
        )
    pruned = cast("LedgerLayer", layer)
    pruned.record, pruned.skew, pruned.owner = (
        record,
        length - record.slots.shape[1],
        weakref.ref(owner),
    )
    if isinstance(pruned, SlidingLedgerLayer):
        pruned.cumulative_length = length - added
