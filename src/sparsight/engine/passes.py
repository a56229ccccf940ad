"""One forward pass: what the hooks of one model tell each other, kept in a context variable.

Threads and nested models each see their own pass.
"""

from collections.abc import Callable, Hashable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn
from transformers.cache_utils import DynamicLayer

from sparsight.counts.layout import Grid, Layout
from sparsight.counts.schedule import Schedule
from sparsight.engine.cache import LedgerLayer, Owner, Record, extend, stored_length
from sparsight.sequence.compactor import Compactor
from sparsight.sequence.rater_rows import AttentionCall
from sparsight.sequence.slots import Batch

T = TypeVar("T")

_CURRENT: ContextVar["Pass | None"] = ContextVar("sparsight_pass", default=None)


@dataclass
class Pass:
    """One forward pass of L tokens.

    Args:
        owner: the engine whose model runs.
        opener: the module that opened the pass, and closes it.
        visual: (B, L) bool on the host, None if the pass brings no image.
        schedules: (B,) planned counts, None for samples without visual tokens.
        layouts: (B,) where visual tokens lie, None where it is not known.
        scale: grid of each image and the one it is scaled down to; None if images stay as they are.
        announced: (b, L) ids on the host and (b,) layouts of a generate() call, which may copy its
            samples.
        candidates: last tokens of each row that are no part of the prompt.
        encoded: the scale at which images have been encoded in this pass.
        length: L.
        past: logical length of the cache before this pass.
        mask: (B, past + L) bool, False for padding; None if there is none.
        host_real: (B, L) bool on the host, None if no token of this pass is padding.
        compactor: shortens the sequence; None if nothing is pruned in this pass.
        given_mask: attention mask that the base model was given; None if there is none.
        given_host: its last L columns on the host, if they have been read.
        calls: attention calls of scoring layers that wait to be read.
        memo: what layers of one group share.
        windows: sliding window of each cache layer, () where none slides.
        sites: that the pass has come by.
        host_reads: times this pass waited for the device.
    """

    owner: Owner
    opener: nn.Module
    visual: torch.Tensor | None = None
    schedules: tuple[Schedule | None, ...] = ()
    layouts: tuple[Layout | None, ...] = ()
    scale: tuple[Grid, Grid] | None = None
    announced: tuple[torch.Tensor, tuple[Layout | None, ...]] | None = None
    candidates: int = 0
    encoded: tuple[Grid, Grid] | None = None
    length: int = 0
    past: int = 0
    mask: torch.Tensor | None = None
    host_real: torch.Tensor | None = None
    compactor: Compactor | None = None
    given_mask: Any = None
    given_host: torch.Tensor | None = None
    calls: dict[int, AttentionCall] = field(default_factory=dict)
    memo: dict[Hashable, Any] = field(default_factory=dict)
    windows: tuple[int, ...] = ()
    sites: int = 0
    host_reads: int = 0
    outer: "Pass | None" = None

    @property
    def real(self) -> torch.Tensor | None:
        """(B, L) bool on the device, None if no token of this pass is padding."""
        return None if self.mask is None or self.host_real is None else self.mask[:, self.past :]

    def read_mask(self, mask: torch.Tensor | None) -> None:
        """Take the pass's 2-D mask; a step of one token is real without looking, as it costs a wait to look."""
        if mask is None:
            return
        self.mask = mask.bool()
        if self.length > 1:
            host = self.given_host
            host = self.to_host(self.mask[:, self.past :]) if host is None else host
            self.host_real = None if bool(host.all()) else host

    def read_given(self, length: int) -> torch.Tensor | None:
        """Read the mask that the base model was given, (B, length) bool on the host; None if it is no 2-D mask."""
        mask = self.given_mask
        if isinstance(mask, torch.Tensor) and mask.ndim == 2 and mask.shape[1] >= length:
            self.given_host = self.to_host(mask[:, -length:].bool())
        return self.given_host

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """Read a tensor on the host; every wait of the engine for the device goes through here."""
        self.host_reads += 1
        return tensor.cpu()

    def layouts_of(self, ids: torch.Tensor) -> tuple[Layout | None, ...] | None:
        """Return the announced layouts of a batch of ids (B, L), candidates included; None if others were announced."""
        if self.announced is None or len(ids) % len(self.announced[0]):
            return None
        known, layouts = self.announced
        copies = len(ids) // len(known)
        same = torch.equal(known.repeat_interleave(copies, dim=0), ids[:, : known.shape[1]])
        return tuple(own for own in layouts for _ in range(copies)) if same else None

    def drafted(self, ids: torch.Tensor) -> int:
        """Return how many of the last ids (B, L) were not announced: candidates of assisted decoding."""
        return (
            0
            if self.layouts_of(ids) is None or self.announced is None
            else ids.shape[1] - self.announced[0].shape[1]
        )

    def share(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what was made for `key` in this pass, or make it."""
        if key not in self.memo:
            self.memo[key] = make()
        found: T = self.memo[key]
        return found

    def valid_keys(
        self, store: DynamicLayer | None, batch: Batch | None, queries: int
    ) -> torch.Tensor | None:
        """Return which of a cache layer's entries are valid once this pass has added its own.

        Args:
            store: the cache layer, None without a cache.
            batch: stored order of this pass, None if all its tokens are stored.
            queries: tokens of this pass that are stored.
        Returns: (B, stored + queries) bool, None if all are.
        """
        new = self.real if batch is None else batch.valid
        stored = 0 if store is None else stored_length(store)
        if isinstance(store, LedgerLayer):
            old = store.current_valid()
        else:
            old = (
                None
                if self.mask is None or not stored
                else self.mask[:, self.past - stored : self.past]
            )
        if old is not None and new is None:
            return extend(old, queries)
        if new is None or not stored:
            return new
        return torch.cat(
            [new.new_ones(len(new), stored) if old is None else old.to(new.device), new], dim=1
        )

    def record(
        self, store: DynamicLayer | None, batch: Batch | None, valid: torch.Tensor | None
    ) -> Record:
        """Return what a cache layer will hold once this pass has added its own entries."""
        if batch is None:
            rows, device = (
                (len(store.record.slots), store.record.slots.device)
                if isinstance(store, LedgerLayer)
                else (1, None)
            )
            new = torch.arange(self.past, self.past + self.length, device=device).expand(rows, -1)
        else:
            new = batch.order + self.past
        if isinstance(store, LedgerLayer):
            old = store.current_slots()
        else:
            stored = 0 if store is None else stored_length(store)
            old = torch.arange(self.past - stored, self.past, device=new.device).expand(
                len(new), -1
            )
        slots = torch.cat([old.to(new.device), new], dim=1)
        return Record(slots, None if valid is None else valid.to(slots.device))


def current_pass(owner: Owner) -> Pass | None:
    """Return the innermost pass of `owner`, also from below one that an interrupt left open, which no hook sees."""
    state = _CURRENT.get()
    while state is not None and state.owner is not owner:
        state = state.outer
    return state


def pass_on(base: nn.Module) -> Pass | None:
    """Return the running pass of the engine that hosts a base model; None if there is none."""
    state = _CURRENT.get()
    while state is not None and state.owner.base is not base:
        state = state.outer
    return state


def open_pass(state: Pass) -> None:
    """Make `state` the pass that runs now."""
    state.outer = outside(state.owner)
    _CURRENT.set(state)


def outside(owner: Owner) -> Pass | None:
    """Return the innermost pass of anyone else who is attached; others were left open by an interrupt."""
    state = _CURRENT.get()
    while state is not None and (state.owner is owner or not state.owner.attached):
        state = state.outer
    return state


def drop_passes(owner: Owner) -> None:
    """Forget passes of `owner` that an interrupt left open."""
    _CURRENT.set(outside(owner))


def close_pass(state: Pass) -> None:
    """Return to the pass that ran before `state`."""
    _CURRENT.set(state.outer)
