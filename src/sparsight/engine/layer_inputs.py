"""What runs beside the hidden states: mask, positions, rotary tables and cache record of a shortened sequence.

Causal layers get a mask built from the stored order. Where a layer slides, or a family lets blocks
see each other both ways, rows and columns of the mask that the model made for the unpruned sequence
are gathered: a slot keeps its meaning. Private details of transformers touched here: the names of a
decoder layer's arguments, `rotary_emb`, and `is_causal` of `self_attn`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from sparsight.engine.cache import Owner, Record, cache_layer, ledger_at, stored_length, write
from sparsight.engine.checks import FULL, SLIDING, kernel_of, layer_kinds, refuse_unknown
from sparsight.engine.compat import take_cache
from sparsight.engine.passes import Pass
from sparsight.errors import UnsupportedError
from sparsight.families import Family
from sparsight.sequence import masks
from sparsight.sequence.slots import Batch


class Beside:
    """Shortens the arguments of one decoder's layers.

    Args:
        owner: whose caches these are.
        family: whether its masks are causal.
        decoder: the text decoder.
        positions: position policy of the method.
    """

    def __init__(self, owner: Owner, family: Family, decoder: Any, positions: str) -> None:
        self.owner, self.decoder, self.positions = owner, decoder, positions
        self.kinds = layer_kinds(decoder.config, len(decoder.layers))
        self.slides = SLIDING in self.kinds
        self.gathers = tuple(not family.causal or kind != FULL for kind in self.kinds)
        self.causal = tuple(
            bool(getattr(getattr(layer, "self_attn", None), "is_causal", True))
            for layer in decoder.layers
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
        """Return the layer arguments that the shortened sequence needs, and note in the cache what it will hold.

        Args:
            hidden: (B, n, D) input of layer `index`.
            kwargs: its other arguments, as the model gives them.
            batch: stored order of this pass; None if all its tokens are there.
        Returns: the arguments that change; None for a layer that is as it was.
        """
        store = self._store(take_cache(kwargs), index, batch)
        if batch is None and store is None:
            return None
        if batch is not None:
            refuse_unknown(kwargs, state.length)
        stored = 0 if store is None else stored_length(store)
        # layers that store the same share mask, positions and record; the key holds the objects,
        # never their ids
        group = (self.kinds[index], batch, getattr(store, "record", None), stored, hidden.device)
        valid = state.share(
            ("valid", group), lambda: state.valid_keys(store, batch, hidden.shape[1])
        )
        record = partial(state.share, ("record", group), lambda: state.record(store, batch, valid))
        local = None if valid is None else valid.to(hidden.device)
        given = kwargs.get("attention_mask") if self.gathers[index] else None
        mask: Callable[[], torch.Tensor | None] = partial(self._made, index, hidden, local, stored)
        if given is not None:
            mask = partial(self._gathered, state, given, batch, record, local)
        changed: dict[str, Any] = {
            "attention_mask": state.share(("mask", group), mask),
            "position_ids": torch.arange(hidden.shape[1], device=hidden.device)[None],
        }
        if self.positions == "renumber" or batch is not None:
            rotary = partial(
                self._rotary, hidden, batch, kwargs["position_embeddings"], local, stored
            )
            changed["position_embeddings"] = state.share(("rotary", group), rotary)
        # tokens that are all stored need no new record, unless some of them are padding
        if store is not None and (batch is not None or state.real is not None):
            write(store, record(), state.past + state.length, self.owner)
        return changed

    def frequencies(self) -> tuple[torch.Tensor | None, ...]:
        """Return each layer's (d/2,) inverse rotary frequencies; None where a position is not one number."""
        rotary = getattr(self.decoder, "rotary_emb", None)
        if hasattr(rotary, "mrope_section"):
            return (None,) * len(self.kinds)
        own = (
            getattr(rotary, f"{kind}_inv_freq", None) for kind in self.kinds
        )  # one table for each kind of layer
        return tuple(getattr(rotary, "inv_freq", None) if table is None else table for table in own)

    def _store(self, cache: Any, index: int, batch: Batch | None) -> DynamicLayer | None:
        """Return the cache layer that is pruned now or was before; None if there is none."""
        if cache is None:
            return None
        return ledger_at(cache, index) if batch is None else self.cache_layer(cache, index)

    def _made(
        self, index: int, hidden: torch.Tensor, valid: torch.Tensor | None, stored: int
    ) -> torch.Tensor | None:
        """Return the mask of a layer for which none is gathered."""
        if hidden.shape[1] > 1 and not self.causal[index]:
            return None if valid is None else masks.open_mask(valid, hidden.shape[1])
        dtype = None if kernel_of(self.decoder) == "sdpa" else hidden.dtype
        return masks.causal_mask(
            valid, hidden.shape[1], stored + hidden.shape[1], dtype, hidden.device
        )

    def _gathered(
        self,
        state: Pass,
        given: Any,
        batch: Batch | None,
        record: Callable[[], Record],
        valid: torch.Tensor | None,
    ) -> torch.Tensor:
        if not isinstance(given, torch.Tensor) or given.ndim != 4:
            raise UnsupportedError(
                f"decoder layers get a mask of kind {type(given).__name__}, which cannot be shortened; load the model "
                "with attn_implementation='sdpa' or 'eager'."
            )
        first = state.past + state.length - given.shape[-1]  # slot of the mask's first column
        rows = None if batch is None else batch.order.to(given.device)
        valid = None if valid is None else valid.to(given.device)
        return masks.gather_mask(given, rows, record().slots.to(given.device) - first, valid)

    def _rotary(
        self,
        hidden: torch.Tensor,
        batch: Batch | None,
        tables: tuple[torch.Tensor, ...],
        valid: torch.Tensor | None,
        stored: int,
    ) -> tuple[torch.Tensor, ...]:
        """Return the rotary tables of a shortened sequence, each (..., B or 1, n, d)."""
        if self.positions == "keep" and batch is not None:
            order = batch.order
            return tuple(masks.gather_rotary(table, order).to(hidden.device) for table in tables)
        new = hidden.shape[1]
        numbers = masks.contiguous_positions(valid, new, stored + new, hidden.device)
        return tuple(self.decoder.rotary_emb(hidden, numbers))
