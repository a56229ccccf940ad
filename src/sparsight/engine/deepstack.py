"""DeepStack: features that a decoder adds to the visual tokens after each of its first layers.

The decoder adds them by a mask of the unpruned sequence, which no longer fits after a site.

Private detail of transformers touched here: the decoder's method `(hidden states, visual positions,
features)`, which is overridden on the instance.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sparsight.errors import TESTED_WITH, UnsupportedError
from sparsight.sequence.slots import Batch


def attach_deepstack(
    decoder: nn.Module, name: str, batch: Callable[[], Batch | None]
) -> Callable[[], None]:
    """Patch the decoder's DeepStack method to work after visual tokens were dropped.

    Args:
        decoder: the text decoder.
        name: of its DeepStack method.
        batch: returns the stored order of the running pass; None while nothing has been removed.
    Returns: a function that removes the patch.
    Raises: UnsupportedError: the decoder has no such method.
    """
    plain: Callable[..., Any] | None = getattr(decoder, name, None)
    if plain is None:
        raise UnsupportedError(
            f"{type(decoder).__name__} has no {name}() that adds DeepStack features; {TESTED_WITH}."
        )

    def process(hidden: torch.Tensor, visual: torch.Tensor, features: torch.Tensor) -> Any:
        shortened = batch()
        if shortened is None:
            return plain(hidden, visual, features)
        visual = visual.to(hidden.device)
        return hidden + gather_features(visual, features.to(hidden), shortened.order)

    before = vars(decoder).get(name)  # an override that somebody else has put on the instance
    vars(decoder)[name] = process

    def remove() -> None:
        if before is None:
            vars(decoder).pop(name, None)
        else:
            vars(decoder)[name] = before

    return remove


def gather_features(
    visual: torch.Tensor, features: torch.Tensor, order: torch.Tensor
) -> torch.Tensor:
    """Return the features of the tokens that are still there, 0 for text tokens.

    Args:
        visual: (B, L) bool, which tokens of the unpruned sequence are visual.
        features: (V, D) of all visual tokens of the batch, in order.
        order: (B, n) int64, slots of the tokens that are still there.
    Returns: (B, n, D).
    """
    full = features.new_zeros(*visual.shape, features.shape[-1]).masked_scatter(
        visual[..., None], features
    )
    return full.gather(1, order.to(full.device)[..., None].expand(-1, -1, full.shape[-1]))
