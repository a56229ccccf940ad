"""Rebuilds what a decoder layer gets besides hidden states: mask, positions, rotary tables, cache.

Causal layers get a new mask. For sliding windows and bidirectional blocks, the remaining rows and
columns of the model's own mask are taken: a slot keeps its meaning. Private details of transformers
touched here: the names of a decoder layer's arguments, `rotary_emb`, and `is_causal` of
`self_attn`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from sparsight.engine.cache import (
    LedgerLayer,
    Owner,
    Record,
    cache_layer,
    extend,
    ledger_at,
    stored_length,
    write,
)
from sparsight.engine.checks import FULL, SLIDING, kernel_of, layer_kinds, refuse_unknown
from sparsight.engine.compat import take_cache
from sparsight.engine.parts import Parts
from sparsight.engine.passes import Pass
from sparsight.errors import UnsupportedError
from sparsight.sequence import masks
from sparsight.sequence.slots import Batch


@dataclass(frozen=True, eq=False)
class Group:
    """What decoder layers share that attend alike and store the same entries.

    Args:
        arguments: of the layers, those that change.
        record: what their cache layers will hold; None if their ledgers need no new record.
    """

    arguments: dict[str, Any]
    record: Record | None


@dataclass(frozen=True)
class Entries:
    """What a layer attends to: entries of its cache, then tokens of this pass.

    Args:
        state: the pass.
        store: the cache layer; None without a cache.
        batch: stored order of this pass; None if all its tokens are there.
        stored: entries of the cache layer before this pass.
        new: tokens of this pass.
    """

    state: Pass
    store: DynamicLayer | None
    batch: Batch | None
    stored: int
    new: int

    def read_valid(self) -> torch.Tensor | None:
        """Return which entries are valid, (B, stored + new) bool; None if all are."""
        state = self.state
        new = state.real if self.batch is None else self.batch.valid
        old = None
        if isinstance(self.store, LedgerLayer):
            old = self.store.current_valid()
        elif state.padding.mask is not None and self.stored:
            old = state.padding.mask[:, state.past - self.stored : state.past]
        if new is None:
            return extend(old, self.new)
        if not self.stored:
            return new
        old = new.new_ones(len(new), self.stored) if old is None else old.to(new.device)
        return torch.cat([old, new], dim=1)

    def make_record(self, valid: torch.Tensor | None) -> Record:
        """Return what the cache layer will hold once this pass has added its own entries.

        Args: valid: (B, stored + new) bool; None if all entries are valid.
        """
        ledger = self.store if isinstance(self.store, LedgerLayer) else None
        past = self.state.past
        if self.batch is not None:
            new = self.batch.order + past
        else:
            rows = 1 if ledger is None else len(ledger.record.slots)
            device = None if ledger is None else ledger.record.slots.device
            new = torch.arange(past, past + self.state.length, device=device).expand(rows, -1)
        if ledger is not None:
            old = ledger.current_slots()
        else:
            old = torch.arange(past - self.stored, past, device=new.device).expand(len(new), -1)
        slots = torch.cat([old.to(new.device), new], dim=1)
        return Record(slots, None if valid is None else valid.to(slots.device))


class LayerInputs:
    """Shortens the arguments of one decoder's layers.

    Args:
        owner: whose caches these are.
        parts: of the model.
        positions: position policy of the method.
    """

    def __init__(self, owner: Owner, parts: Parts, positions: str) -> None:
        self.owner, self.decoder, self.positions = owner, parts.decoder, positions
        self.kinds = layer_kinds(parts.decoder.config, len(parts.layers))
        self.slides = SLIDING in self.kinds
        self.gathers = tuple(not parts.family.causal or kind != FULL for kind in self.kinds)
        self.causal = tuple(
            bool(getattr(getattr(layer, "self_attn", None), "is_causal", True))
            for layer in parts.layers
        )

    def cache_layer(self, cache: Any, index: int) -> DynamicLayer:
        """Return one layer of a cache that can be pruned.

        Raises: UnsupportedError: a kind of cache layer whose length cannot be kept by a ledger.
        """
        return cache_layer(cache, index, sliding=self.kinds[index] == SLIDING)

    def shorten(
        self,
        state: Pass,
        index: int,
        hidden: torch.Tensor,
        kwargs: dict[str, Any],
        batch: Batch | None,
    ) -> dict[str, Any] | None:
        """Return the layer arguments that change, and write the ledger of the layer's cache.

        Args:
            state: the pass.
            index: of the decoder layer.
            hidden: (B, n, D) its input.
            kwargs: its other arguments, as the model gives them.
            batch: stored order of this pass; None if all its tokens are there.
        Returns: None for a layer whose sequence and cache were never shortened.
        """
        store = self._find_store(take_cache(kwargs), index, batch)
        if batch is None and store is None:
            return None
        stored = 0 if store is None else stored_length(store)
        # the key holds the objects themselves: an id could be taken over by a newer object
        key = (
            self.kinds[index],
            self.causal[index],
            batch,
            getattr(store, "record", None),
            stored,
            hidden.device,
        )
        group: Group | None = state.groups.get(key)
        if group is None:
            entries = Entries(state, store, batch, stored, hidden.shape[1])
            group = state.groups[key] = self._make_group(entries, index, hidden, kwargs)
        if store is not None and group.record is not None:
            write(store, group.record, state.past + state.length, self.owner)
        return group.arguments

    def read_frequencies(self) -> tuple[torch.Tensor | None, ...]:
        """Return each layer's (d/2,) inverse rotary frequencies.

        Returns: (L,) of them; None where a position is not one number.
        """
        return rotary_frequencies(self.decoder, self.kinds)

    def _find_store(self, cache: Any, index: int, batch: Batch | None) -> DynamicLayer | None:
        """Return the cache layer that is pruned now or was before; None if there is none."""
        if cache is None:
            return None
        return ledger_at(cache, index) if batch is None else self.cache_layer(cache, index)

    def _make_group(
        self, entries: Entries, index: int, hidden: torch.Tensor, kwargs: Mapping[str, Any]
    ) -> Group:
        state, batch = entries.state, entries.batch
        if batch is not None:
            refuse_unknown(kwargs, state.length)
        valid = entries.read_valid()
        local = None if valid is None else valid.to(hidden.device)
        given = kwargs.get("attention_mask") if self.gathers[index] else None
        # tokens that are all stored need no new record, unless some of them are padding
        writes = entries.store is not None and (batch is not None or state.real is not None)
        record = entries.make_record(valid) if writes or given is not None else None
        if given is None or record is None:
            mask = self._make_mask(index, hidden, local, entries.stored)
        else:
            mask = _gather(state, given, batch, record, local)
        arguments: dict[str, Any] = {
            "attention_mask": mask,
            "position_ids": torch.arange(entries.new, device=hidden.device)[None],
        }
        if self.positions == "renumber" or batch is not None:
            tables = kwargs["position_embeddings"]
            arguments["position_embeddings"] = self._make_rotary(hidden, entries, tables, local)
        return Group(arguments, record if writes else None)

    def _make_mask(
        self, index: int, hidden: torch.Tensor, valid: torch.Tensor | None, stored: int
    ) -> torch.Tensor | None:
        """Return a new mask; None where the kernel needs none."""
        if hidden.shape[1] > 1 and not self.causal[index]:
            return None if valid is None else masks.open_mask(valid, hidden.shape[1])
        dtype = None if kernel_of(self.decoder) == "sdpa" else hidden.dtype
        return masks.causal_mask(
            valid, hidden.shape[1], stored + hidden.shape[1], dtype, hidden.device
        )

    def _make_rotary(
        self,
        hidden: torch.Tensor,
        entries: Entries,
        tables: tuple[torch.Tensor, ...],
        valid: torch.Tensor | None,
    ) -> tuple[torch.Tensor, ...]:
        """Return the rotary tables of a shortened sequence, each (..., B or 1, n, d)."""
        if self.positions == "keep" and entries.batch is not None:
            order = entries.batch.order
            return tuple(masks.gather_rotary(table, order).to(hidden.device) for table in tables)
        keys = entries.stored + entries.new
        numbers = masks.contiguous_positions(valid, entries.new, keys, hidden.device)
        return tuple(self.decoder.rotary_emb(hidden, numbers))


def _gather(
    state: Pass,
    given: Any,
    batch: Batch | None,
    record: Record,
    valid: torch.Tensor | None,
) -> torch.Tensor:
    """Return the rows and columns of the model's own mask that are left.

    Raises: UnsupportedError: the model's mask is no 4-D tensor.
    """
    if not isinstance(given, torch.Tensor) or given.ndim != 4:
        raise UnsupportedError(
            f"decoder layers get a mask of kind {type(given).__name__}, which cannot be shortened; "
            "load the model with attn_implementation='sdpa' or 'eager'."
        )
    first = state.past + state.length - given.shape[-1]  # slot of the mask's first column
    rows = None if batch is None else batch.order.to(given.device)
    valid = None if valid is None else valid.to(given.device)
    return masks.gather_mask(given, rows, record.slots.to(given.device) - first, valid)


def rotary_frequencies(decoder: Any, kinds: tuple[str, ...]) -> tuple[torch.Tensor | None, ...]:
    """Return the (d/2,) inverse rotary frequencies of each kind of layer.

    Args:
        decoder: the text decoder.
        kinds: (L,) how each layer attends.
    Returns: (L,) of them; None where a position is not one number.
    """
    rotary = getattr(decoder, "rotary_emb", None)
    if hasattr(rotary, "mrope_section"):
        return (None,) * len(kinds)
    common = getattr(rotary, "inv_freq", None)
    tables = (getattr(rotary, f"{kind}_inv_freq", None) for kind in kinds)
    return tuple(common if table is None else table for table in tables)
