"""One forward pass: what the hooks of one model tell each other, kept in a context variable.

Threads and nested models each see their own pass.
"""

from collections.abc import Hashable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sparsight.counts.layout import Layout
from sparsight.engine.cache import Owner
from sparsight.engine.outline import Outline, Scale
from sparsight.sequence.compactor import Compactor
from sparsight.sequence.rater_rows import AttentionCall

_CURRENT: ContextVar["Pass | None"] = ContextVar("sparsight_pass", default=None)


@dataclass
class Pruning:
    """What a pass that is pruned needs; a pass either has all of it or none.

    Args:
        compactor: shortens the hidden states at each site.
        windows: sliding window of each cache layer; () where no layer slides.
        calls: attention calls of scoring layers, waiting to be read, by layer.
        sites: how many sites the pass has come by.
    """

    compactor: Compactor
    windows: tuple[int, ...]
    calls: dict[int, AttentionCall] = field(default_factory=dict)
    sites: int = 0


@dataclass
class Padding:
    """Which tokens of a pass are padding.

    Args:
        given: attention mask that the base model was given; None if there is none.
        given_host: its last L columns, (B, L) bool on the host, once they have been read.
        mask: (B, past + L) bool on the device, False for padding; None if there is no mask.
        host: (B, L) bool on the host; None if no token of this pass is padding.
    """

    given: Any = None
    given_host: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    host: torch.Tensor | None = None


@dataclass
class Pass:
    """One forward pass of L tokens.

    Args:
        owner: the engine whose model runs.
        opener: the module that opened the pass, and closes it.
        padding: which tokens are padding.
        outline: visual tokens and planned counts; None if the pass brings no image.
        announced: (b, L) ids on the host of a generate() call whose outline this is; the call may
            copy its samples. None for every other pass.
        encoded: the scale at which images have been encoded in this pass.
        length: L.
        past: logical length of the cache before this pass.
        pruning: None if nothing is pruned in this pass.
        groups: what alike layers share: mask, positions, rotary tables and record.
        host_reads: times this pass waited for the device.
        outer: the pass that runs around this one.
    """

    owner: Owner
    opener: nn.Module
    padding: Padding
    outline: Outline | None = None
    announced: torch.Tensor | None = None
    encoded: Scale | None = None
    length: int = 0
    past: int = 0
    pruning: Pruning | None = None
    groups: dict[Hashable, Any] = field(default_factory=dict)
    host_reads: int = 0
    outer: "Pass | None" = None

    @property
    def brings_visual_tokens(self) -> bool:
        """Whether any sample has visual tokens; those of a generate() call come with a later pass."""
        return self.outline is not None and self.announced is None and any(self.outline.counts)

    @property
    def scale(self) -> Scale | None:
        """How the pass's images are scaled down; None if they stay as they are."""
        return None if self.outline is None else self.outline.scale

    @property
    def real(self) -> torch.Tensor | None:
        """(B, L) bool on the device, False for padding; None if no token of this pass is padding."""
        mask = self.padding.mask
        return None if mask is None or self.padding.host is None else mask[:, self.past :]

    def read_mask(self, mask: torch.Tensor | None) -> None:
        """Set the padding of this pass from its 2-D mask.

        A step of one token counts as real without a look, because a look waits for the device.
        """
        if mask is None:
            return
        padding = self.padding
        padding.mask = mask.bool()
        if self.length == 1:
            return
        host = padding.given_host
        if host is None:
            host = self.to_host(padding.mask[:, self.past :])
        padding.host = None if bool(host.all()) else host

    def read_given_mask(self, length: int) -> torch.Tensor | None:
        """Return the last columns of the base model's mask, (B, length) bool on the host.

        Returns: None if the mask is no 2-D tensor of that many columns.
        """
        mask = self.padding.given
        if isinstance(mask, torch.Tensor) and mask.ndim == 2 and mask.shape[1] >= length:
            self.padding.given_host = self.to_host(mask[:, -length:].bool())
        return self.padding.given_host

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor on the host; every wait of the engine for the device goes through here."""
        self.host_reads += 1
        return tensor.cpu()

    def layouts_of(self, ids: torch.Tensor) -> tuple[Layout | None, ...] | None:
        """Return the announced layouts of a batch of ids (B, L), which may end with candidates.

        Returns: None if other ids were announced, or none.
        """
        if self.announced is None or self.outline is None or len(ids) % len(self.announced):
            return None
        copies = len(ids) // len(self.announced)
        expected = self.announced.repeat_interleave(copies, dim=0)
        if not torch.equal(expected, ids[:, : expected.shape[1]]):
            return None
        return tuple(layout for layout in self.outline.layouts for _ in range(copies))

    def count_candidates(self, ids: torch.Tensor) -> int:
        """Return how many of the last ids (B, L) were not announced: drafts of assisted decoding."""
        if self.announced is None or self.layouts_of(ids) is None:
            return 0
        return ids.shape[1] - self.announced.shape[1]


def current_pass(owner: Owner) -> Pass | None:
    """Return the pass of `owner` that is running, or None.

    Newer passes of other engines are skipped: an interrupted run left them open.
    """
    state = _CURRENT.get()
    while state is not None and state.owner is not owner:
        state = state.outer
    return state


def pass_on(base: nn.Module) -> Pass | None:
    """Return the running pass of the engine that hosts a base model, or None."""
    state = _CURRENT.get()
    while state is not None and state.owner.base is not base:
        state = state.outer
    return state


def open_pass(state: Pass) -> None:
    """Make `state` the running pass."""
    state.outer = pass_of_others(state.owner)
    _CURRENT.set(state)


def pass_of_others(owner: Owner) -> Pass | None:
    """Return the running pass of another attached engine, or None.

    Passes of detached engines are leftovers of interrupted runs.
    """
    state = _CURRENT.get()
    while state is not None and (state.owner is owner or not state.owner.attached):
        state = state.outer
    return state


def drop_passes(owner: Owner) -> None:
    """Close the passes of `owner` that an interrupt left open."""
    _CURRENT.set(pass_of_others(owner))


def close_pass(state: Pass) -> None:
    """Make the pass that ran before `state` the running one again."""
    _CURRENT.set(state.outer)
