"""The keys that a decoder layer attends to: which slots they have, and which of them are valid.

A slot is the index of a token in the logical sequence, from which nothing was removed.
"""

from dataclasses import dataclass

import torch
from transformers.cache_utils import DynamicLayer

from sparsight.engine.ledger import LedgerLayer, Record, append_valid
from sparsight.engine.passes import Pass
from sparsight.sequence.slots import Batch


@dataclass(frozen=True)
class Entries:
    """The keys that a layer attends to: entries of its cache layer, then tokens of this pass.

    Either part may be shortened. The cache layer has a ledger if an earlier pass was pruned at or
    before this layer; the tokens of this pass have a `Batch` once a site has removed some of them.

    Args:
        state: the pass.
        cache_layer: of this layer, before this pass; None without a cache.
        batch: order of this pass's remaining tokens; None while all its tokens are there.
        stored: how many entries the cache layer has stored, per sample.
        new: how many tokens of this pass the layer gets, per sample.
    """

    state: Pass
    cache_layer: DynamicLayer | None
    batch: Batch | None
    stored: int
    new: int

    @property
    def ledger(self) -> LedgerLayer | None:
        """The cache layer if it was pruned before, else None."""
        return self.cache_layer if isinstance(self.cache_layer, LedgerLayer) else None

    def read_valid(self) -> torch.Tensor | None:
        """Return which keys are valid, (B, stored + new) bool; None if all are."""
        new = self.state.real if self.batch is None else self.batch.valid  # (B, new)
        old = self._read_stored_valid()  # (B, stored)
        if new is None:
            return append_valid(old, self.new)
        if not self.stored:
            return new
        old = new.new_ones(len(new), self.stored) if old is None else old.to(new.device)
        return torch.cat([old, new], dim=1)

    def _read_stored_valid(self) -> torch.Tensor | None:
        """Return which entries of the cache layer are valid, (B, stored) bool; None if all are."""
        ledger, mask = self.ledger, self.state.padding.mask
        if ledger is not None:
            return ledger.read_valid()
        if mask is None or not self.stored:
            return None
        # a layer that was never pruned stores the last `stored` slots before this pass
        return mask[:, self.state.past - self.stored : self.state.past]

    def make_record(self, valid: torch.Tensor | None, bias: torch.Tensor | None) -> Record:
        """Return what the cache layer will hold once this pass has added its tokens.

        Args:
            valid: (B, stored + new) bool; None if all keys are valid.
            bias: (B, stored + new), what each key adds to attention logits; None for nothing.
        """
        new = self._make_new_slots()  # (B or 1, new)
        ledger, past = self.ledger, self.state.past
        if ledger is None:
            old = torch.arange(past - self.stored, past, device=new.device).expand(len(new), -1)
        else:
            old = ledger.read_slots()
        slots = torch.cat([old.to(new.device), new], dim=1)
        parts = (None if part is None else part.to(slots.device) for part in (valid, bias))
        return Record(slots, *parts)

    def _make_new_slots(self) -> torch.Tensor:
        """Return the slots of this pass's tokens, (B or 1, new) int64."""
        past = self.state.past
        if self.batch is not None:
            return self.batch.order + past
        if self.ledger is None:  # rows are alike, and one of them is enough
            return torch.arange(past, past + self.state.length)[None]
        slots = self.ledger.record.slots
        new = torch.arange(past, past + self.state.length, device=slots.device)
        return new.expand(len(slots), -1)
