"""What a method sees at one site for one sample, and what it answers."""

from dataclasses import dataclass
from typing import Protocol

import torch

from sparsight.counts.layout import Layout


class RaterAttention(Protocol):
    """Post-softmax attention that the raters pay to the visual tokens, at the layer before a site.

    Never an L x L map: only rater rows are computed, in chunks.
    """

    def mean_over_heads(self) -> torch.Tensor:
        """Return (R, V) float32 probabilities, not renormalised over the visual columns."""

    def mean_over_raters(self, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Return (H, V) float32; each probability is first multiplied by `weight` (R, V) if given."""


@dataclass(frozen=True)
class View:
    """One sample at one site.

    Args:
        site: decoder layer on whose entry the sequence gets shorter, 0 for the input.
        count: visual tokens that may leave the site, recycled ones included.
        keep_count: tokens to keep; `count - keep_count` are to be recycled.
        hidden: (V, D) hidden states of the visual tokens, output of layer site - 1, input embeddings at site 0.
        images: (V,) int64, which image (contiguous run of visual tokens) each one belongs to, ascending from 0.
        positions: (V,) int64 rotary positions of the visual tokens.
        rater_positions: (R,) int64.
        length: every position lies in 0..length-1.
        inverse_frequencies: (d/2,) float32 rotary inverse frequencies, None where the decoder has none to offer.
        attention: rater attention of layer site - 1; None for methods that need no attention.
        index: position of the sample in the batch.
        layout: where the sample's visual tokens lie, before any was removed; None where the family does not know.
    """

    site: int
    count: int
    keep_count: int
    hidden: torch.Tensor
    images: torch.Tensor
    positions: torch.Tensor
    rater_positions: torch.Tensor
    length: int
    inverse_frequencies: torch.Tensor | None
    attention: RaterAttention | None
    index: int
    layout: Layout | None = None


@dataclass(frozen=True)
class Recycled:
    """Tokens rebuilt from dropped ones.

    Args:
        values: (C, D) hidden states.
        centres: (C,) int64, the visual token whose place each takes.
        pool: (P,) int64, dropped tokens that were clustered, ascending.
        labels: (P,) int64 in 0..C-1, the cluster of each.
    """

    values: torch.Tensor
    centres: torch.Tensor
    pool: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Selection:
    """A method's answer.

    Args:
        keep: (K,) int64 ascending indices into the view's visual tokens.
        recycled: tokens rebuilt from the others, or None.
        score: (V,) float32, higher is kept; for the trace, None if the method scores nothing.
    """

    keep: torch.Tensor
    recycled: Recycled | None = None
    score: torch.Tensor | None = None
