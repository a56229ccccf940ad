"""What a method sees at one site for samples that are alike, and what it answers.

A group is G samples with the same number of visual tokens, the same counts and the same layout.
Methods that are not `batched` see one sample at a time, without the dimension G.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch

from sparsight.counts.layout import Layout


class RaterAttention(Protocol):
    """Post-softmax attention that the raters pay to the visual tokens, at the layer before a site.

    Never an L x L map: only rater rows are computed, in chunks. Samples with fewer raters than
    others of the group are filled up; the means do not count what fills up.
    """

    @property
    def present(self) -> torch.Tensor | None:
        """(G, R) bool, False for rows that fill up; None if there are none. `Distance.raters` is filled up alike."""

    def mean(self) -> torch.Tensor:
        """Return (G, V) float32, the mean over heads and raters, not renormalised over the visual columns."""

    def mean_over_heads(self) -> torch.Tensor:
        """Return (G, R, V) float32 probabilities; rows that fill up are 0."""

    def mean_over_raters(self, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Return (G, H, V) float32; each probability is first multiplied by `weight` (G, R, V) if given."""


@dataclass(frozen=True)
class Distance:
    """How far apart raters and visual tokens stand, in one rotary dimension.

    Args:
        visual: (G, V) int64 positions of the visual tokens.
        raters: (G, R) int64 positions; rows are filled up with the first rater.
        length: every position lies in 0..length-1.
        inverse_frequencies: (d/2,) float32 rotary inverse frequencies.
    """

    visual: torch.Tensor
    raters: torch.Tensor
    length: int
    inverse_frequencies: torch.Tensor


@dataclass(frozen=True)
class View:
    """Samples alike at one site.

    Args:
        site: decoder layer on whose entry the sequence gets shorter, 0 for the input.
        count: visual tokens that may leave the site, recycled ones included.
        keep_count: tokens to keep; `count - keep_count` are to be recycled.
        hidden: (G, V, D) hidden states of the visual tokens, output of layer site - 1, input
            embeddings at site 0.
        images: (G, V) int64, which image (contiguous run of visual tokens) each one belongs to,
            ascending from 0.
        attention: rater attention of layer site - 1; None for methods that need no attention.
        distance: of raters and visual tokens; None for methods that need none.
        layout: where the visual tokens lay before any was removed; None for methods that need none.
        exact: whether exactly `count` tokens must leave the site; if not, fewer may.
    """

    site: int
    count: int
    keep_count: int
    hidden: torch.Tensor
    images: torch.Tensor
    attention: RaterAttention | None = None
    distance: Distance | None = None
    layout: Layout | None = None
    exact: bool = True


@dataclass(frozen=True)
class Recycled:
    """Tokens rebuilt from dropped ones.

    Args:
        values: (G, C, D) hidden states.
        centres: (G, C) int64, the visual token whose place each takes.
        pool: (G, P) int64, dropped tokens that were clustered, ascending.
        labels: (G, P) int64 in 0..C-1, the cluster of each.
    """

    values: torch.Tensor
    centres: torch.Tensor
    pool: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Selection:
    """A method's answer.

    Args:
        keep: (G, K) int64 indices into the view's visual tokens, ascending in each row.
        recycled: tokens rebuilt from the others, or None.
        score: (G, V) float32, higher is kept; for the trace, None if the method scores nothing.
    """

    keep: torch.Tensor
    recycled: Recycled | None = None
    score: torch.Tensor | None = None


def single(view: View) -> View:
    """Return the view of a group of one without its first dimension, for methods that see one sample at a time."""
    return replace(
        view,
        hidden=view.hidden[0],
        images=view.images[0],
        attention=None if view.attention is None else _Single(view.attention),
        distance=None
        if view.distance is None
        else replace(view.distance, visual=view.distance.visual[0], raters=view.distance.raters[0]),
    )


@dataclass(frozen=True)
class _Single:
    """Rater attention of a group of one, without its first dimension."""

    group: RaterAttention

    @property
    def present(self) -> torch.Tensor | None:
        """None: one sample has no rows that fill up."""
        return None

    def mean(self) -> torch.Tensor:
        """Return (V,)."""
        return self.group.mean()[0]

    def mean_over_heads(self) -> torch.Tensor:
        """Return (R, V)."""
        return self.group.mean_over_heads()[0]

    def mean_over_raters(self, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Return (H, V), for a weight (R, V)."""
        return self.group.mean_over_raters(None if weight is None else weight[None])[0]


def grouped(selection: Selection) -> Selection:
    """Return the answer for one sample as that for a group of one."""
    recycled, score = selection.recycled, selection.score
    if recycled is not None:
        parts = (recycled.values, recycled.centres, recycled.pool, recycled.labels)
        recycled = Recycled(*(part[None] for part in parts))
    return Selection(selection.keep[None], recycled, None if score is None else score[None])
