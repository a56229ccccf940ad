"""The state of one forward pass, which the hooks of one model share in a context variable.

Threads and nested models each see their own pass.
"""

from collections.abc import Hashable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sparsight.counts.layout import Layout
from sparsight.engine.ledger import Owner
from sparsight.engine.outline import Encoding, Outline, Scale
from sparsight.errors import UnsupportedError
from sparsight.methods.encoder import EncoderNeed
from sparsight.sequence.compactor import Compactor
from sparsight.sequence.encoded import Encoded
from sparsight.sequence.rater_rows import AttentionCall

_CURRENT: ContextVar["Pass | None"] = ContextVar("sparsight_pass", default=None)


@dataclass
class Pruning:
    """The state that only a pruned pass has.

    Args:
        compactor: shortens the hidden states at each site.
        windows: sliding window of each cache layer, 0 for none; () where no layer slides.
        calls: by layer, tapped attention calls that the next site will read.
        ahead: layer that is called ahead of its turn, up to its attention; None while none is.
        sites: how many sites the pass has reached.
    """

    compactor: Compactor
    windows: tuple[int, ...]
    calls: dict[int, AttentionCall] = field(default_factory=dict)
    ahead: int | None = None
    sites: int = 0

    def take_call(self, layer: int) -> AttentionCall:
        """Return the tapped attention call of a layer, and forget it.

        Raises: UnsupportedError: the layer's attention was not tapped in this pass.
        """
        call = self.calls.pop(layer, None)
        if call is None:
            raise UnsupportedError(
                f"decoder layer {layer} does not attend through transformers' attention "
                "interface; its attention cannot be read."
            )
        return call


@dataclass
class Padding:
    """Which tokens of a pass are padding.

    Args:
        base_mask: attention mask that the base model was given, of any kind; None if there is none.
        base_host: last L columns of `base_mask`, (B, L) bool on the host; None until they are read.
        mask: (B, past + L) bool on the device, False for padding; None if there is no mask.
        host: (B, L) bool on the host, False for padding; None if no token of this pass is padding.
    """

    base_mask: Any = None
    base_host: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    host: torch.Tensor | None = None


@dataclass
class Pass:
    """One forward pass of L tokens.

    Args:
        owner: the engine whose model runs.
        opener: the module on whose entry the pass was opened, and on whose exit it is closed.
        padding: which tokens are padding.
        outline: visual tokens and planned counts; None if the pass brings no image.
        announced: token ids (b, L) on the host, for a pass that stands for a generate() call and
            announces its outline; later passes may hold several copies of each sample. None for
            every other pass.
        encoded: the scale at which images have been encoded in this pass; None if at their own.
        ids: (B, L) token ids on the host of a pass that brings images; None before they are read.
        image_sizes: (I, 2) int64, height and width in px that the caller gives of the images; None
            if the caller gives none.
        encoded_parts: what was read of the image encoder for this pass, images first, then videos.
        length: L.
        past: logical length of the cache before this pass.
        pruning: state of the pruning; None if nothing is pruned in this pass.
        groups: arguments and cache record that layers share, by what makes the layers alike.
        host_reads: how often this pass waited for the device.
        outer: the pass during which this one was opened; None if there is none.
    """

    owner: Owner
    opener: nn.Module
    padding: Padding
    outline: Outline | None = None
    announced: torch.Tensor | None = None
    encoded: Scale | None = None
    ids: torch.Tensor | None = None
    image_sizes: torch.Tensor | None = None
    encoded_parts: list[Encoded] = field(default_factory=list)
    length: int = 0
    past: int = 0
    pruning: Pruning | None = None
    groups: dict[Hashable, Any] = field(default_factory=dict)
    host_reads: int = 0
    outer: "Pass | None" = None

    @property
    def brings_visual_tokens(self) -> bool:
        """Whether a sample of this pass has visual tokens; announced ones come in a later pass."""
        return self.outline is not None and self.announced is None and any(self.outline.counts)

    @property
    def needs(self) -> tuple[EncoderNeed, ...]:
        """What the method reads of the image encoder in this pass; () if no sample is pruned."""
        schedules = () if self.outline is None else self.outline.schedules
        pruned = any(schedule is not None and schedule.prunes for schedule in schedules)
        return self.owner.encoder_needs if pruned else ()

    @property
    def scale(self) -> Scale | None:
        """How the pass's images are scaled down; None if they stay as they are."""
        return None if self.outline is None else self.outline.scale

    @property
    def encoding(self) -> Encoding | None:
        """What is done to the pass's images inside the encoder; None for nothing."""
        return None if self.outline is None else self.outline.encoding

    @property
    def real(self) -> torch.Tensor | None:
        """(B, L) bool on the device, False for padding; None if no token is padding."""
        mask = self.padding.mask
        if mask is None or self.padding.host is None:
            return None
        return mask[:, self.past :]

    def read_mask(self, mask: torch.Tensor | None) -> None:
        """Set the padding of this pass from its 2-D mask.

        The token of a decode step counts as real without a look at the mask, because a look would
        wait for the device.

        Args: mask: (B, past + L), 0 or False for padding; None if there is none.
        """
        if mask is None:
            return
        padding = self.padding
        padding.mask = mask.bool()
        if self.length == 1:
            return
        host = padding.base_host
        if host is None:
            host = self.to_host(padding.mask[:, self.past :])
        padding.host = None if bool(host.all()) else host

    def read_base_mask(self, length: int) -> torch.Tensor | None:
        """Return the last columns of the base model's mask, (B, length) bool on the host.

        Returns: None if the mask is not 2-D or has fewer columns.
        """
        mask = self.padding.base_mask
        if isinstance(mask, torch.Tensor) and mask.ndim == 2 and mask.shape[1] >= length:
            self.padding.base_host = self.to_host(mask[:, -length:].bool())
        return self.padding.base_host

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor on the host and count the wait; the engine waits nowhere else."""
        self.host_reads += 1
        return tensor.cpu()

    def match_layouts(self, ids: torch.Tensor) -> tuple[Layout | None, ...] | None:
        """Return the announced layouts, one for each row of `ids`.

        Args: ids: (B, L) on the host; rows may end with candidate tokens of assisted decoding.
        Returns: None if these ids were not announced.
        """
        if self.announced is None or self.outline is None or len(ids) % len(self.announced):
            return None
        copies = len(ids) // len(self.announced)
        expected = self.announced.repeat_interleave(copies, dim=0)
        if not torch.equal(expected, ids[:, : expected.shape[1]]):
            return None
        return tuple(layout for layout in self.outline.layouts for _ in range(copies))

    def count_candidates(self, ids: torch.Tensor) -> int:
        """Return how many candidate tokens of assisted decoding end each row of `ids` (B, L)."""
        if self.announced is None or self.match_layouts(ids) is None:
            return 0
        return ids.shape[1] - self.announced.shape[1]


def find_pass(owner: Owner) -> Pass | None:
    """Return the pass of `owner` that is running, or None.

    Newer passes of other engines are skipped: an interrupted run left them open.
    """
    state = _CURRENT.get()
    while state is not None and state.owner is not owner:
        state = state.outer
    return state


def find_pass_on(base: nn.Module) -> Pass | None:
    """Return the running pass of the engine that is attached to a base model, or None."""
    state = _CURRENT.get()
    while state is not None and state.owner.base is not base:
        state = state.outer
    return state


def open_pass(state: Pass) -> None:
    """Make `state` the running pass."""
    state.outer = find_pass_of_others(state.owner)
    _CURRENT.set(state)


def find_pass_of_others(owner: Owner) -> Pass | None:
    """Return the running pass of another attached engine, or None.

    Passes of detached engines are skipped: an interrupted run left them open.
    """
    state = _CURRENT.get()
    while state is not None and (state.owner is owner or not state.owner.attached):
        state = state.outer
    return state


def drop_passes(owner: Owner) -> None:
    """Close every pass of `owner`, those that an interrupt left open included."""
    _CURRENT.set(find_pass_of_others(owner))


def close_pass(state: Pass) -> None:
    """Make the pass during which `state` was opened the running pass again."""
    _CURRENT.set(state.outer)
