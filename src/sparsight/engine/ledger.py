"""The ledger of a cache layer: which slots it stores, and the logical length that it reports.

A slot is the index of a token in the logical sequence, from which nothing was removed. transformers
asks one cache layer for *the* length and derives positions, masks and prompt slices from it. A
pruned layer therefore stores few keys and values but reports the logical length, and its ledger
says which slots it really stores. Private details of transformers touched here: `DynamicLayer` and
`DynamicSlidingWindowLayer`, from which the ledger's classes inherit; `keys`, `is_initialized` and
`_layer_type` of both; `cumulative_length` and `sliding_window` of the latter; all their methods
that change what is stored.
"""

import weakref
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from sparsight.errors import AttachError, UnsupportedError
from sparsight.methods.encoder import EncoderNeed


class Owner(Protocol):
    """The engine that pruned a cache; it must be attached and running when the cache is used."""

    attached: bool
    base: nn.Module
    encoder_needs: tuple[EncoderNeed, ...]

    @property
    def running(self) -> bool:
        """Whether the engine's model runs now."""


@dataclass(frozen=True, eq=False)  # compared and hashed by identity
class Record:
    """The entries of a cache layer when its ledger was last written.

    Entries that are stored later are one slot each, in order, and need no record.

    Args:
        slots: (B, P) int64, slot of each stored entry.
        valid: (B, P) bool, False for padding, both the prompt's and that which pruning added in
            front of shorter rows; None if all entries are valid.
        bias: (B, P) float32, what each entry adds to attention logits; None for nothing. Entries
            that are stored later add nothing.
    """

    slots: torch.Tensor
    valid: torch.Tensor | None
    bias: torch.Tensor | None = None

    def take(self, samples: torch.Tensor) -> "Record":
        """Return the record of the samples at the batch indices `samples`."""
        chosen = samples.to(self.slots.device)
        parts = (self.valid, self.bias)
        return Record(self.slots[chosen], *(None if p is None else p[chosen] for p in parts))

    def drop_last(self, count: int) -> "Record":
        """Return the record without its last `count` entries."""
        parts = (self.valid, self.bias)
        kept = (None if part is None else part[:, :-count] for part in parts)
        return Record(self.slots[:, :-count], *kept)


class LedgerLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # transformers' __init_subclass__
    """A dynamic cache layer with a ledger.

    `removed` counts the tokens that pruning removed from this layer: its logical length minus its
    stored entries, when the record was written. `damaged` says that a refused crop has left the
    layers of this cache at different lengths.
    """

    _layer_type = None  # transformers puts classes that name a type into its tables
    _plain: type[DynamicLayer] = DynamicLayer
    record: Record
    removed: int
    damaged: bool = False
    owner: "weakref.ref[Owner]"

    @property
    def stored(self) -> int:
        """Entries per sample in memory."""
        return int(self.keys.shape[-2]) if self.is_initialized and self.keys is not None else 0

    @property
    def recorded_length(self) -> int:
        """Logical length when the record was written: the slot of the first entry after it."""
        return self.record.slots.shape[1] + self.removed

    @property
    def appended(self) -> int:
        """Entries that were stored after the record was written."""
        return self.get_seq_length() - self.recorded_length

    def read_slots(self) -> torch.Tensor:
        """Return the slots of all stored entries: (B, stored) int64."""
        slots, start = self.record.slots, self.recorded_length
        later = torch.arange(start, start + self.appended, device=slots.device)
        slots = torch.cat([slots, later.expand(len(slots), -1)], dim=1)
        return slots[:, -self.stored :]  # a sliding layer no longer stores its first entries

    def read_valid(self) -> torch.Tensor | None:
        """Return which stored entries are valid: (B, stored) bool, None if all are."""
        valid = append_valid(self.record.valid, self.appended)
        return None if valid is None else valid[:, -self.stored :]

    def read_bias(self) -> torch.Tensor | None:
        """Return what stored entries add to attention logits: (B, stored), None for nothing."""
        bias = self.record.bias
        if bias is None:
            return None
        later = bias.new_zeros(len(bias), self.appended)
        return torch.cat([bias, later], dim=1)[:, -self.stored :]

    def get_seq_length(self) -> int:
        """Return the logical length."""
        return self.stored + self.removed if self.stored else 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new entries and return all keys and values.

        Raises: AttachError: the sparsify block that pruned this cache has ended or belongs to
        another model, or a crop of the cache was refused.
        """
        if self.damaged:
            raise AttachError(
                "this cache is damaged: a crop into its pruned prompt was refused after some "
                "layers had been cropped; prefill again with a new cache."
            )
        owner = self.owner()
        if owner is None or not owner.attached:
            raise AttachError(
                "this cache was pruned in a sparsify block that has ended; stay inside the block "
                "or start a new cache."
            )
        if not owner.running:
            raise AttachError(
                "this cache was pruned by another model's sparsify block; use it with that model "
                "alone."
            )
        result: tuple[torch.Tensor, torch.Tensor] = super().update(
            key_states, value_states, *args, **kwargs
        )
        return result

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens.

        Args: tokens_to_remove: how many tokens; transformers also passes it as a negative number.
        Raises: UnsupportedError: the removal reaches into the pruned part of the prompt.
        """
        count = abs(tokens_to_remove)
        recorded = max(0, count - self.appended)  # entries to remove that the record describes
        if recorded:
            # removable only where no token is missing among them, so that one entry is one slot
            slots, end = self.record.slots, self.recorded_length
            unbroken = torch.arange(end - recorded, end, device=slots.device)
            if recorded > slots.shape[1] or not bool((slots[:, -recorded:] == unbroken).all()):
                self.damaged = True  # layers before the first site have been cropped already
                raise UnsupportedError(
                    f"removing {count} tokens reaches into the pruned prompt; prefill again with a "
                    "new cache."
                )
        super().crop(tokens_to_remove)
        if recorded:
            self.record = self.record.drop_last(recorded)

    def reset(self) -> None:
        """Empty the layer and make it an ordinary one again."""
        del self.record, self.removed, self.owner
        vars(self).pop("damaged", None)
        self.__class__ = self._plain  # type: ignore[assignment]
        self.reset()

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Reorder the batch for beam search."""
        super().reorder_cache(beam_idx)
        self.record = self.record.take(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sample `repeats` times."""
        super().batch_repeat_interleave(repeats)
        samples = torch.arange(len(self.record.slots), device=self.record.slots.device)
        self.record = self.record.take(samples.repeat_interleave(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the samples at some batch indices."""
        super().batch_select_indices(indices)
        self.record = self.record.take(indices)


class SlidingLedgerLayer(LedgerLayer, DynamicSlidingWindowLayer):  # type: ignore[no-untyped-call]
    """A sliding-window cache layer with a ledger.

    The layer stores the last W - 1 entries. Pruning only shortens the sequence, so these hold every
    entry whose slot lies in the window of W slots. transformers keeps the length of a sliding layer
    in `cumulative_length`, apart from what it stores; the ledger makes that number logical.
    """

    _plain = DynamicSlidingWindowLayer

    def get_seq_length(self) -> int:
        """Return the logical length."""
        return int(self.cumulative_length)

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens.

        Args: tokens_to_remove: how many tokens; transformers also passes it as a negative number.
        Raises: UnsupportedError: tokens that the window had pushed out would have to come back, or
            the removal reaches into the pruned part of the prompt.
        """
        if not tokens_to_remove:
            return
        length = self.get_seq_length()
        if length >= self.sliding_window:
            self.damaged = True  # other layers may have been cropped already
            raise UnsupportedError(
                f"a sliding window of {self.sliding_window} stores only the last of its {length} "
                "tokens, so none can be removed; prefill again with a new cache."
            )
        super().crop(tokens_to_remove)
        self.cumulative_length = length - abs(tokens_to_remove)

    def activate_past_recording(self) -> None:
        """Refuse to record the entries that the window pushes out.

        Raises: UnsupportedError: always.
        """
        raise UnsupportedError(
            "candidate tokens cannot be taken back from a pruned sliding window; decode without "
            "an assistant."
        )


def append_valid(valid: torch.Tensor | None, count: int) -> torch.Tensor | None:
    """Return `valid` (B, n) bool with `count` valid entries appended; None if all are valid."""
    if valid is None or not count:
        return valid
    return torch.cat([valid, valid.new_ones(len(valid), count)], dim=1)
