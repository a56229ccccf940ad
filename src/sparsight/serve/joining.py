"""Puts the model's inputs of several prompts into one batch, and takes its stats apart again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sparsight.methods.method import Method


@dataclass(frozen=True, eq=False)
class Prompt:
    """A question as the model takes it.

    Args:
        inputs: of the model, one row, on its device.
        tokens: of the prompt, visual ones included, before anything is pruned.
        visual_tokens: of them.
        method: that prunes; None for the dense model, and where there is nothing to prune.
        rating: how many tokens at the end may rate the images; None for all behind them.
        most: tokens that the answer may have.
    """

    inputs: Mapping[str, Any]
    tokens: int
    visual_tokens: int
    method: Method | None
    rating: int | None
    most: int

    @property
    def group(self) -> tuple[Any, ...]:
        """What prompts have in common that can be answered in one batch.

        The method stands in it as text, because retain=1 equals retain=1.0 in Python, but is one
        token and not all of them.
        """
        shapes = []
        for name, value in sorted(self.inputs.items()):
            if not isinstance(value, torch.Tensor):
                return (id(self),)  # nobody knows how to join it
            shape = None if self.is_by_token(value) else value.shape[1:]
            shapes.append((name, value.dtype, shape))
        return (repr(self.method), self.rating, *shapes)

    def is_by_token(self, value: torch.Tensor) -> bool:
        """Return whether an input has a number for each token, and is padded as they are."""
        return value.shape == (1, self.tokens) and not value.is_floating_point()


def join(prompts: Sequence[Prompt], pad: int) -> dict[str, Any]:
    """Return the inputs of prompts of one group as a batch, padded on the left.

    Args:
        prompts: of which all have the same `group`.
        pad: token id of padding.
    """
    first = prompts[0]
    if len(prompts) == 1:
        return dict(first.inputs)
    longest = max(prompt.tokens for prompt in prompts)
    joined = {}
    for name, value in first.inputs.items():
        values = [prompt.inputs[name] for prompt in prompts]
        if first.is_by_token(value):
            fill = pad if name == "input_ids" else 0
            values = [_pad(row, longest, fill) for row in values]
        joined[name] = torch.cat(values)
    return joined


def _pad(row: torch.Tensor, length: int, fill: int) -> torch.Tensor:
    """Return (1, N) filled up to (1, length) on the left."""
    return torch.nn.functional.pad(row, (length - row.shape[1], 0), value=fill)
