"""Rebuilds what a decoder layer gets besides hidden states: mask, positions, rotary tables, cache.

Causal layers get a new mask. For sliding windows and bidirectional blocks, the remaining rows and
columns of the model's own mask are taken, as a slot (the index of a token in the unpruned sequence)
says which ones. The cache layer's ledger is written: it says which slots the layer stores.

Private details of transformers touched here: `attention_mask`, `position_ids` and
`position_embeddings` of decoder layers and the shapes of all three; `rotary_emb` of text decoders,
its call, `inv_freq` or one `..._inv_freq` for each kind of layer, and `mrope_section`, which marks
M-RoPE; `is_causal` of `self_attn`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from sparsight.engine.cache import count_stored, find_ledger, get_cache_layer, write_record
from sparsight.engine.calibrator import Calibrator
from sparsight.engine.checks import FULL, SLIDING, read_kernel, read_layer_kinds, refuse_unknown
from sparsight.engine.compat import take_cache
from sparsight.engine.entries import Entries
from sparsight.engine.ledger import Owner, Record
from sparsight.engine.parts import Parts
from sparsight.engine.passes import Pass
from sparsight.errors import UnsupportedError
from sparsight.methods.method import Method
from sparsight.sequence import masks
from sparsight.sequence.slots import Batch


@dataclass(frozen=True, eq=False)
class LayerGroup:
    """What decoder layers share that attend in the same way and store the same slots.

    Args:
        arguments: of the layers by name, those that change.
        record: the record to be written into the ledgers of their cache layers; None if the ledgers
            need no new record.
    """

    arguments: dict[str, Any]
    record: Record | None


class LayerInputs:
    """Shortens the arguments of one decoder's layers.

    Args:
        owner: the engine whose passes fill the caches.
        parts: of the model.
        method: whose position policy and calibration count.
    """

    def __init__(self, owner: Owner, parts: Parts, method: Method) -> None:
        self.owner = owner
        self.decoder = parts.decoder
        self.positions = method.positions
        self.calibrator = Calibrator(method.calibration)
        self.kinds = read_layer_kinds(parts.decoder.config, len(parts.layers))
        self.slides = SLIDING in self.kinds
        # layers whose own mask is shortened; the others get a new causal mask
        self.gathers = tuple(not parts.family.causal or kind != FULL for kind in self.kinds)
        self.causal = tuple(
            bool(getattr(getattr(layer, "self_attn", None), "is_causal", True))
            for layer in parts.layers
        )

    def get_cache_layer(self, cache: Any, index: int) -> DynamicLayer:
        """Return the cache layer of one decoder layer.

        Raises: UnsupportedError: a kind of cache layer whose length cannot be kept by a ledger.
        """
        return get_cache_layer(cache, index, sliding=self.kinds[index] == SLIDING)

    def shorten(
        self,
        state: Pass,
        index: int,
        hidden: torch.Tensor,
        kwargs: dict[str, Any],
        batch: Batch | None,
    ) -> dict[str, Any] | None:
        """Return the arguments of a layer that change, and write the ledger of its cache layer.

        Args:
            state: the pass.
            index: of the decoder layer.
            hidden: (B, n, D) its input.
            kwargs: its other arguments by name, as the model gives them.
            batch: order of this pass's remaining tokens; None while all its tokens are there.
        Returns: None for a layer whose sequence and cache were never shortened.
        """
        found = self._find_group(state, index, hidden, kwargs, batch)
        if found is None:
            return None
        group, cache_layer = found
        if cache_layer is not None and group.record is not None:
            write_record(cache_layer, group.record, state.past + state.length, self.owner)
        return group.arguments

    def read(
        self,
        state: Pass,
        index: int,
        hidden: torch.Tensor,
        kwargs: dict[str, Any],
        batch: Batch | None,
    ) -> dict[str, Any]:
        """Return the arguments of a layer that change, and write nothing.

        Args: as of `shorten`.
        """
        found = self._find_group(state, index, hidden, kwargs, batch)
        return {} if found is None else found[0].arguments

    def _find_group(
        self,
        state: Pass,
        index: int,
        hidden: torch.Tensor,
        kwargs: dict[str, Any],
        batch: Batch | None,
    ) -> tuple[LayerGroup, DynamicLayer | None] | None:
        """Return arguments and record of all layers like the one at `index`, and its cache layer.

        Returns: None for a layer whose sequence and cache were never shortened.
        """
        cache_layer = self._find_cache_layer(take_cache(kwargs), index, batch)
        if batch is None and cache_layer is None:
            return None
        stored = 0 if cache_layer is None else count_stored(cache_layer)
        # Layers with equal keys get equal arguments, which are made once. The key holds the objects
        # themselves: the id of one that is gone could be the id of a newer one.
        key = (
            self.kinds[index],
            self.causal[index],
            batch,
            getattr(cache_layer, "record", None),
            stored,
            hidden.device,
            self.calibrator.is_special(index),
        )
        group: LayerGroup | None = state.groups.get(key)
        if group is None:
            if batch is not None:
                refuse_unknown(kwargs, state.length)
            entries = Entries(state, cache_layer, batch, stored, hidden.shape[1])
            group = state.groups[key] = self._make_group(entries, index, hidden, kwargs)
        return group, cache_layer

    def read_frequencies(self) -> tuple[torch.Tensor | None, ...]:
        """Return the inverse rotary frequencies of each layer, (L,) tensors (d/2,).

        A frequency is None where a position is not one number, as with M-RoPE.
        """
        return read_rotary_frequencies(self.decoder, self.kinds)

    def _find_cache_layer(self, cache: Any, index: int, batch: Batch | None) -> DynamicLayer | None:
        """Return the cache layer that is pruned in this pass or was before; None if there is none.

        Args: batch: order of this pass's remaining tokens; None while all its tokens are there.
        """
        if cache is None:
            return None
        return find_ledger(cache, index) if batch is None else self.get_cache_layer(cache, index)

    def _make_group(
        self, entries: Entries, index: int, hidden: torch.Tensor, kwargs: Mapping[str, Any]
    ) -> LayerGroup:
        """Return changed arguments and record for all layers like the one at `index`."""
        state, batch = entries.state, entries.batch
        valid = entries.read_valid()  # (B, stored + new)
        local_valid = _move(valid, hidden.device)
        model_mask = kwargs.get("attention_mask") if self.gathers[index] else None
        # If all tokens of this pass are there and none is padding, the ledger counts them itself.
        needs_record = batch is not None or state.real is not None
        writes = entries.cache_layer is not None and needs_record
        keys = self.calibrator.read_keys(entries, index)
        record = None
        if writes or model_mask is not None:
            record = entries.make_record(valid, keys)
        arguments: dict[str, Any] = {
            "position_ids": torch.arange(entries.new, device=hidden.device)[None]
        }
        tables = kwargs["position_embeddings"]
        # with positions="keep", the tables of a pass that is not shortened are right as they are
        if self.positions == "renumber" or batch is not None:
            tables = self._make_rotary(hidden, entries, tables, local_valid)
            arguments["position_embeddings"] = tables
        local_keys = _move(keys, hidden.device)
        bias = self.calibrator.add_up(local_keys, entries, self.kinds[index], tables)
        if model_mask is None or record is None:
            mask = self._make_mask(index, hidden, local_valid, entries.stored, bias)
        else:
            mask = _gather_mask(state, model_mask, batch, record, local_valid)
        if bias is not None:
            mask = masks.add_bias(mask, bias, hidden.dtype)
        return LayerGroup({**arguments, "attention_mask": mask}, record if writes else None)

    def _make_mask(
        self,
        index: int,
        hidden: torch.Tensor,
        valid: torch.Tensor | None,
        stored: int,
        bias: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """Return a new mask (B or 1, 1, n, stored + n); None where the kernel needs none.

        Args: bias: that will be added, for which no kernel makes a causal mask; None for none.
        """
        queries = hidden.shape[1]
        if queries > 1 and not self.causal[index]:
            return None if valid is None else masks.open_mask(valid, queries)
        plain = bias is None and read_kernel(self.decoder) == "sdpa"
        dtype = None if plain else hidden.dtype
        return masks.causal_mask(valid, queries, stored + queries, dtype, hidden.device)

    def _make_rotary(
        self,
        hidden: torch.Tensor,
        entries: Entries,
        tables: tuple[torch.Tensor, ...],
        valid: torch.Tensor | None,
    ) -> tuple[torch.Tensor, ...]:
        """Return the rotary tables of a shortened sequence, each (..., B or 1, n, d).

        Args:
            hidden: (B, n, D).
            entries: what the layer attends to.
            tables: of the unpruned sequence, each (..., B or 1, L, d).
            valid: (B, stored + n) bool; None if all keys are valid.
        """
        if self.positions == "keep" and entries.batch is not None:
            order = entries.batch.order
            return tuple(masks.gather_rotary(table, order).to(hidden.device) for table in tables)
        keys = entries.stored + entries.new
        numbers = masks.contiguous_positions(valid, entries.new, keys, hidden.device)
        return tuple(self.decoder.rotary_emb(hidden, numbers))


def _gather_mask(
    state: Pass,
    mask: Any,
    batch: Batch | None,
    record: Record,
    valid: torch.Tensor | None,
) -> torch.Tensor:
    """Return the rows and columns of the model's own mask for the tokens that are left.

    Args:
        state: the pass.
        mask: (1 or B, 1 or H, L, C) of the model; its last column belongs to the last token.
        batch: order of this pass's remaining tokens; None while all its tokens are there.
        record: slots of the keys.
        valid: (B, stored + n) bool; None if all keys are valid.
    Raises: UnsupportedError: the model's mask is not a 4-D tensor.
    """
    if not isinstance(mask, torch.Tensor) or mask.ndim != 4:
        raise UnsupportedError(
            f"decoder layers get a mask of type {type(mask).__name__}, which cannot be shortened; "
            "load the model with attn_implementation='sdpa' or 'eager'."
        )
    # the mask of a sliding layer starts at the first slot that its cache still stores
    first_slot = state.past + state.length - mask.shape[-1]
    rows = None if batch is None else batch.order.to(mask.device)
    columns = record.slots.to(mask.device) - first_slot
    return masks.gather_mask(mask, rows, columns, _move(valid, mask.device))


def _move(tensor: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    return None if tensor is None else tensor.to(device)


def read_rotary_frequencies(
    decoder: Any, kinds: tuple[str, ...]
) -> tuple[torch.Tensor | None, ...]:
    """Return the inverse rotary frequencies of each layer, (L,) tensors (d/2,).

    A frequency is None where a position is not one number, as with M-RoPE.

    Args:
        decoder: the text decoder.
        kinds: (L,) how each layer attends.
    """
    rotary = getattr(decoder, "rotary_emb", None)
    if hasattr(rotary, "mrope_section"):
        return (None,) * len(kinds)
    common = getattr(rotary, "inv_freq", None)
    tables = (getattr(rotary, f"{kind}_inv_freq", None) for kind in kinds)
    return tuple(common if table is None else table for table in tables)
