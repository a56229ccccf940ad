"""What a method may read of the decoder at a site, beside hidden states and attention.

Tensors only.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

# the decoder's final norm, from hidden states (..., D) to what its head gets, (..., D)
Norm = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class TextStates:
    """Hidden states of the text behind the images, as they enter a site.

    Args:
        values: (G, T, D); samples with fewer tokens than others repeat their first one behind their
            own.
        present: (G, T) bool, False for rows that fill up; None if there are none.
    """

    values: torch.Tensor
    present: torch.Tensor | None = None

    def drop_group(self) -> "TextStates":
        """Return the text of a group of one without the dimension G."""
        return TextStates(self.values[0])


@dataclass(frozen=True, eq=False)
class DecoderKeys:
    """Keys of the decoder layer before a site, as its attention gets them: turned by position.

    Args:
        visual: (G, H, V, d), H key heads.
        text: (G, H, T, d), those of the text behind the images, in the rows of `TextStates`.
        present: (G, T) bool, False for rows that fill up; None if there are none.
    """

    visual: torch.Tensor
    text: torch.Tensor
    present: torch.Tensor | None = None

    def drop_group(self) -> "DecoderKeys":
        """Return the keys of a group of one without the dimension G."""
        return DecoderKeys(self.visual[0], self.text[0])
