"""What each slot of a batch is.

A slot is the index of a token in the sequence before anything was removed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sparsight.sequence.prompt import Prompt


@dataclass(frozen=True, eq=False)  # compared and hashed by identity
class Batch:
    """The tokens of a batch that are left after a site, in the order in which they are stored.

    Args:
        order: (B, n) int64, slot of each token.
        valid: (B, n) bool, False for padding, both the prompt's and that which the site added in
            front of shorter rows; None if all tokens are valid.
    """

    order: torch.Tensor
    valid: torch.Tensor | None


@dataclass(frozen=True)
class Slots:
    """What each slot of a batch of L tokens is, on the device of the hidden states.

    Args:
        image_of: (B, L) int64, image of each visual token, -1 for other tokens.
        visual_index_of: (B, L) int64, index of each visual token among those of the sample's
            prompt, 0 for other tokens.
        position_of: (B, L) int64, index of each token among the sample's real tokens.
        raters: (B, R) int64, slots of the raters; rows with fewer raters repeat their first one,
            rows without raters are 0.
    """

    image_of: torch.Tensor
    visual_index_of: torch.Tensor
    position_of: torch.Tensor
    raters: torch.Tensor

    def to(self, device: torch.device) -> "Slots":
        """Return the slots on a device, as a model may be split over several devices."""
        if self.image_of.device == device:
            return self
        parts = (self.image_of, self.visual_index_of, self.position_of, self.raters)
        return Slots(*(part.to(device, non_blocking=True) for part in parts))


def read_slots(
    prompts: Sequence[Prompt], raters: Sequence[torch.Tensor], device: torch.device
) -> Slots:
    """Return what each slot of a batch is.

    Args:
        prompts: (B,) of L tokens each.
        raters: (B,) slots of each sample's raters, (R,) int64 on the host.
        device: of the hidden states.
    """
    images = torch.full((len(prompts), prompts[0].length), -1)
    indices = torch.zeros_like(images)
    for row, prompt in enumerate(prompts):
        images[row, prompt.visual] = prompt.images
        indices[row, prompt.visual] = torch.arange(len(prompt.visual))
    positions = torch.stack([prompt.positions for prompt in prompts])
    most = max(len(slots) for slots in raters)
    rater_table = indices.new_zeros(len(prompts), most)
    for row, slots in enumerate(raters):
        if len(slots):
            rater_table[row] = slots[0]
            rater_table[row, : len(slots)] = slots
    return Slots(images, indices, positions, rater_table).to(device)


def copy_to_device(numbers: Sequence[int], device: torch.device) -> torch.Tensor:
    """Return host numbers on a device, (n,) int64, without waiting for the device."""
    return torch.tensor(numbers).to(device, non_blocking=True)
