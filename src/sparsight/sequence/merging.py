"""Tokens that the blocks of an image encoder merge: which, and how many patches each stands for.

Pictures of one call may be left with different numbers of tokens. Those of equal numbers are worked
on together; a picture with fewer tokens than another has fillers behind its own, which no token
attends to.

Shapes: I pictures, tiles among them; N tokens of each before the first block, n before a block and
n' behind what it merges, fillers included.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sparsight.methods.parts.bipartite import (
    match_bipartite,
    merge_by_size,
    merge_sizes,
    plan_merges,
)
from sparsight.methods.parts.calibration import bias_of_sizes
from sparsight.methods.parts.tensors import widen


@dataclass
class Alike:
    """Pictures that are left with equal numbers of tokens.

    Args:
        rows: (J,) int64, their numbers in the call; None for all.
        merges: how many tokens each block merges.
        sizes: (J, m) float, how many patches each token stands for.
        place: (J, N) int64, which token each one of the first block is part of; None while nothing
            has been merged.
        owner: (J, m) int64, which token each one becomes part of in the running block; None where
            it merges none.
    """

    rows: torch.Tensor | None
    merges: tuple[int, ...]
    sizes: torch.Tensor
    place: torch.Tensor | None = None
    owner: torch.Tensor | None = None

    def take(self, tensor: torch.Tensor, length: int) -> torch.Tensor:
        """Return the own rows of a tensor (I, n, ...), without fillers."""
        return tensor[:, :length] if self.rows is None else tensor[self.rows, :length]

    def move(self, device: torch.device) -> None:
        """Move to where the running block is; the blocks of a large encoder may be apart."""
        self.sizes = self.sizes.to(device)
        self.rows = None if self.rows is None else self.rows.to(device)
        self.place = None if self.place is None else self.place.to(device)

    @property
    def present(self) -> int:
        """How many tokens each picture has before the running block merges."""
        return self.sizes.shape[1]

    def end_block(self, merged: int) -> None:
        """Note what the running block has merged, `merged` tokens of each picture."""
        if self.owner is not None:
            self.sizes = merge_sizes(self.sizes, self.owner, self.present - merged)
            self.place = self.owner if self.place is None else self.owner.gather(1, self.place)
        self.owner = None


class Merging:
    """What was merged so far in one call of an encoder.

    Args:
        metric: (I, N, d), whose device and dtype the sizes get.
        counts: (I,) tokens that are left of the patches of each picture.
        class_token: whether a class token stands in front of the patches.
        blocks: how many blocks merge.
    """

    def __init__(
        self, metric: torch.Tensor, counts: Sequence[int], class_token: bool, blocks: int
    ) -> None:
        self.class_token = class_token
        self.tokens = tokens = metric.shape[1]  # N
        self.groups: list[Alike] = []
        for count in sorted(set(counts)):
            rows = [row for row, other in enumerate(counts) if other == count]
            where = None
            if len(rows) < len(counts):
                where = torch.tensor(rows).to(metric.device, non_blocking=True)
            merges = plan_merges(tokens - class_token, count, blocks)
            self.groups.append(Alike(where, merges, metric.new_ones(len(rows), tokens)))

    def match(self, block: int, metric: torch.Tensor) -> None:
        """Choose what a block merges.

        Args: metric: (I, n, d) keys of its attention, mean over heads.
        """
        for group in self.groups:
            group.move(metric.device)
            if group.merges[block]:
                own = group.take(metric, group.present)
                group.owner = match_bipartite(own, group.merges[block], self.class_token)

    def make_mask(self, dtype: torch.dtype) -> torch.Tensor | None:
        """Return what is added to attention logits, (I, 1, 1, n); None while nothing was merged."""
        if all(group.place is None for group in self.groups):
            return None
        logs = [bias_of_sizes(group.sizes).to(dtype) for group in self.groups]
        return self._join(logs, torch.finfo(dtype).min)[:, None, None]

    def merge(self, block: int, hidden: torch.Tensor) -> torch.Tensor:
        """Return hidden states (I, n, D) as a block merges them, (I, n', D)."""
        parts = []
        for group in self.groups:
            own = group.take(hidden, group.present)
            if group.owner is not None:
                count = group.present - group.merges[block]
                own = merge_by_size(own, group.sizes, group.owner, count)
            parts.append(own)
        return self._join(parts)

    def split(self, block: int, hidden: torch.Tensor) -> torch.Tensor:
        """Return what is for merged tokens (I, n', D) for those that they were, (I, n, D)."""
        parts = []
        for group in self.groups:
            if group.owner is None:
                parts.append(group.take(hidden, group.present))
            else:
                own = group.take(hidden, group.present - group.merges[block])
                parts.append(_gather(own, group.owner))
        return self._join(parts)

    def end_block(self, block: int) -> None:
        """Note what a block has merged."""
        for group in self.groups:
            group.end_block(group.merges[block])

    def spread(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return hidden states (I, n, D) for the tokens of the first block, (I, N, D)."""
        parts = []
        for group in self.groups:
            own = group.take(hidden, group.present)
            parts.append(own if group.place is None else _gather(own, group.place))
        return self._join(parts)

    def list_places(self) -> torch.Tensor:
        """Return which token each one of the first block is part of now, (I, N) int64."""
        parts = []
        for group in self.groups:
            place = torch.arange(group.present, device=group.sizes.device)
            parts.append(place.expand(len(group.sizes), -1) if group.place is None else group.place)
        return self._join(parts)

    @property
    def complete(self) -> bool:
        """Whether every block has merged what it was to merge."""
        return all(group.present + sum(group.merges) == self.tokens for group in self.groups)

    def _join(self, parts: list[torch.Tensor], fill: float = 0) -> torch.Tensor:
        """Return the rows of all groups in the order of the call, with fillers at their ends."""
        first = parts[0]
        if len(parts) == 1:
            return first
        rows, length = sum(map(len, parts)), max(part.shape[1] for part in parts)
        joined = first.new_full((rows, length, *first.shape[2:]), fill)
        for group, part in zip(self.groups, parts, strict=True):
            joined[group.rows, : part.shape[1]] = part
        return joined


def average_heads(key: torch.Tensor) -> torch.Tensor:
    """Return keys (I, H, n, d) as their mean over heads, (I, n, d), float32 or wider."""
    return widen(key).mean(dim=1)


def _gather(hidden: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
    return hidden.gather(1, owner[..., None].expand(-1, -1, hidden.shape[-1]))
