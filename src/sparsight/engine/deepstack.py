"""DeepStack: features that a decoder adds to the visual tokens of its first layers, where some of those are gone.

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
    """Have the decoder add features to shortened hidden states as well.

    Args:
        decoder: the text decoder.
        name: of its method.
        batch: gives the stored order of the pass that runs; None while nothing has been removed.
    Returns: a function that takes the override off again.
    Raises: UnsupportedError: the decoder has no such method.
    """
    plain: Callable[..., Any] | None = getattr(decoder, name, None)
    if plain is None:
        raise UnsupportedError(
            f"{type(decoder).__name__} has no {name}() that adds DeepStack features; {TESTED_WITH}."
        )

    def process(hidden: torch.Tensor, visual: torch.Tensor, features: torch.Tensor) -> Any:
        now = batch()
        if now is None:
            return plain(hidden, visual, features)
        return hidden + gather_features(visual.to(hidden.device), features.to(hidden), now.order)

    own = vars(decoder).get(name)
    vars(decoder)[name] = process

    def remove() -> None:
        if own is None:
            vars(decoder).pop(name, None)
        else:
            vars(decoder)[name] = own

    return remove


def gather_features(
    visual: torch.Tensor, features: torch.Tensor, order: torch.Tensor
) -> torch.Tensor:
    """Spread features over the unpruned sequence and take those of the slots that are left.

    Args:
        visual: (B, L) bool.
        features: (V, D) of all visual tokens of the batch.
        order: (B, n) int64 slots.
    Returns: (B, n, D), 0 for text.
    """
    full = features.new_zeros(*visual.shape, features.shape[-1]).masked_scatter(
        visual[..., None], features
    )
    return full.gather(1, order.to(full.device)[..., None].expand(-1, -1, full.shape[-1]))
