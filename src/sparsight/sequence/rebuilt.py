"""Tokens that a site adds, recycled from dropped ones: of each group, and as rows of the batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sparsight.sequence.sample import Group


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """Tokens that a site adds: recycled from dropped ones.

    Args:
        keys: (G, C) int64, sort keys that say where the tokens go; see `SitePruning.rearrange`.
        slots: (G, C) int64, slots of their centres.
        values: (G, C, D) hidden states.
    """

    keys: torch.Tensor
    slots: torch.Tensor
    values: torch.Tensor


def gather_rebuilt(
    parts: Sequence[tuple[Group, Rebuilt]],
    order: torch.Tensor,
    hidden: torch.Tensor,
    largest: int,
) -> Rebuilt:
    """Return the tokens that all groups rebuilt, as rows of the batch.

    Args:
        parts: of each group, at least one.
        order: (B, n) int64 slots before the site.
        hidden: (B, n, D) hidden states before the site.
        largest: sort key where a sample has fewer of them than others, so that it has no use.
    Returns: of (B, C) keys and slots and (B, C, D) values.
    """
    group, first = parts[0]
    if len(parts) == 1 and group.indices is None:
        return first
    most, (batch, _, width) = max(part.keys.shape[1] for _, part in parts), hidden.shape
    keys = order.new_full((batch, most), largest)
    slots = order.new_zeros((batch, most))
    values = hidden.new_zeros(batch, most, width)
    for group, rebuilt in parts:
        rows = slice(None) if group.indices is None else group.indices
        count = rebuilt.keys.shape[1]
        keys[rows, :count] = rebuilt.keys
        slots[rows, :count] = rebuilt.slots
        values[rows, :count] = rebuilt.values
    return Rebuilt(keys, slots, values)
