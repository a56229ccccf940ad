"""What the slots of a batch are: a slot is a token's place in the sequence before anything was removed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sparsight.sequence.prompt import Prompt


@dataclass(frozen=True, eq=False)  # compared and hashed by identity
class Batch:
    """The stored order of a whole batch.

    Args:
        order: (B, n) int64 slots.
        valid: (B, n) bool, False for fillers and padding; None if all are valid.
    """

    order: torch.Tensor
    valid: torch.Tensor | None


@dataclass(frozen=True)
class Slots:
    """What each slot of a batch of L tokens is, on the device of the hidden states.

    Args:
        image_of: (B, L) int64 image of each slot, -1 for other tokens.
        name_of: (B, L) int64 index among the sample's original visual tokens.
        place_of: (B, L) int64 number of each slot among the real tokens.
        raters: (B, R) int64 slots of the raters, rows filled up with their first one; 0 where there
            are none.
    """

    image_of: torch.Tensor
    name_of: torch.Tensor
    place_of: torch.Tensor
    raters: torch.Tensor

    def to(self, device: torch.device) -> "Slots":
        """Return the same on a device, for a model that is split over several."""
        if self.image_of.device == device:
            return self
        parts = (self.image_of, self.name_of, self.place_of, self.raters)
        return Slots(*(part.to(device, non_blocking=True) for part in parts))


def read_slots(
    prompts: Sequence[Prompt], raters: Sequence[torch.Tensor], device: torch.device
) -> Slots:
    """Return what the slots of a batch are.

    Args:
        prompts: (B,) of L tokens each.
        raters: (B,) slots of each sample's raters, (R,) int64 on the host.
        device: of the hidden states.
    """
    images = torch.full((len(prompts), prompts[0].length), -1)
    names = torch.zeros_like(images)
    for row, prompt in enumerate(prompts):
        images[row, prompt.visual] = prompt.images
        names[row, prompt.visual] = torch.arange(len(prompt.visual))
    places = torch.stack([prompt.places for prompt in prompts])
    most = max(len(own) for own in raters)
    filled = names.new_zeros(len(prompts), most)
    for row, own in enumerate(raters):
        if len(own):
            filled[row] = own[0]
            filled[row, : len(own)] = own
    return Slots(images, names, places, filled).to(device)


def on_device(numbers: Sequence[int], device: torch.device) -> torch.Tensor:
    """Return host numbers on a device, (n,) int64, without waiting for it."""
    return torch.tensor(numbers).to(device, non_blocking=True)
