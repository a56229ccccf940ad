"""How many of its prompt's visual tokens each token of a shortened batch stands for.

Sizes are kept by slot, the index of a token in the sequence before anything was removed: a recycled
token stands in the slot of its centre. Text has size 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sparsight.methods.parts.bipartite import merge_sizes
from sparsight.methods.view import Recycled
from sparsight.sequence.sample import Group, Sample
from sparsight.sequence.slots import Slots, copy_to_device


@dataclass
class Sizes:
    """How many visual tokens of the prompt each token of a batch stands for.

    Args: by_slot: (B, L) float32.
    """

    by_slot: torch.Tensor

    def take(self, group: Group, slots: torch.Tensor) -> torch.Tensor:
        """Return the sizes of a group's tokens, (G, V) float32, by their slots (G, V) int64."""
        self.by_slot = self.by_slot.to(slots.device)  # a model may be split over several devices
        return group.take(self.by_slot).gather(1, slots)

    def add(self, group: Group, slots: torch.Tensor, recycled: Recycled) -> None:
        """Count the members of the tokens that a site recycled.

        Args:
            group: of the batch.
            slots: (G, V) int64, slots of the visual tokens that the site had.
            recycled: tokens of the group.
        """
        members = self.take(group, slots).gather(1, recycled.pool)  # (G, P)
        total = merge_sizes(members, recycled.labels, recycled.centres.shape[1])  # (G, C)
        own = group.take(self.by_slot).scatter(1, slots.gather(1, recycled.centres), total)
        if group.indices is not None:
            own = self.by_slot.index_copy(0, group.indices, own)
        self.by_slot = own


def share_prompt(samples: Sequence[Sample], slots: Slots, order: torch.Tensor) -> torch.Tensor:
    """Return N / K for each of a sample's K visual tokens, 1 for text and what was never pruned.

    Args:
        samples: the batch, of N visual tokens each before any was removed.
        slots: what each slot of the batch is, on the device of `order`.
        order: (B, n) int64, slots of the tokens that are left.
    Returns: (B, n) float32.
    """
    ratios = [len(s.prompt.visual) / s.visual_count if s.sites else 1.0 for s in samples]
    ratio = torch.tensor(ratios, dtype=torch.float32).to(order.device, non_blocking=True)
    is_visual = slots.image_of.gather(1, order) >= 0
    return torch.where(is_visual, ratio[:, None], 1.0)


def mark_pruned(samples: Sequence[Sample], device: torch.device) -> torch.Tensor | None:
    """Return which samples have been pruned so far, (B,) int64 of 0 and 1; None if all have."""
    flags = [int(bool(sample.sites)) for sample in samples]
    return None if all(flags) else copy_to_device(flags, device)
