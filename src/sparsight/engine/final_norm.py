"""The decoder's final norm, for methods that compare tokens as the decoder's head sees them.

Private details of transformers touched here: `norm` of text decoders.
"""

from functools import partial
from typing import Any

import torch
from torch import nn

from sparsight.errors import TESTED_WITH, UnsupportedError
from sparsight.methods.decoder import Norm
from sparsight.methods.method import Method


def find_norm(decoder: Any) -> nn.Module:
    """Return the norm behind a text decoder's last layer.

    Raises: UnsupportedError: the decoder has none, or this release keeps it elsewhere.
    """
    norm = getattr(decoder, "norm", None)
    if not isinstance(norm, nn.Module):
        raise UnsupportedError(
            f"{type(decoder).__name__} has no final norm called 'norm', behind which tokens are to "
            f"be compared: use SparseVLM; {TESTED_WITH}."
        )
    return norm


def make_norm(decoder: Any, method: Method) -> Norm | None:
    """Return the final norm as a function; None if the method does not read it."""
    return partial(apply_norm, find_norm(decoder)) if "norm" in method.signals else None


def apply_norm(norm: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Return hidden states (..., D) behind a norm, on their device.

    The norm of a model over several devices brings its input to its own one.
    """
    result: torch.Tensor = norm(hidden)
    return result.to(hidden.device)
