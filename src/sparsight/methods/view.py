"""What a method sees at one site for samples that are alike, and what it answers.

A group is G samples with the same number of visual tokens, the same counts and the same layout.
Methods that are not `batched` see one sample at a time, without the dimension G.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch

from sparsight.counts.layout import Layout
from sparsight.methods.decoder import DecoderKeys, Norm, TextStates
from sparsight.methods.encoder import EncoderSignals, TextSignal


class RaterAttention(Protocol):
    """Post-softmax attention that the raters pay to the visual tokens.

    It is that of the layer before a site, or of the site's own layer on the sequence before the
    site, as the method's class says.

    Never an L x L map: only rater rows are computed, in chunks. A sample with fewer raters than
    another of its group has filler rows behind its own. The means leave filler rows out.
    """

    @property
    def present(self) -> torch.Tensor | None:
        """(G, R) bool, False for filler rows, also those of `Distance.raters`; None without any."""

    def mean(self) -> torch.Tensor:
        """Return the mean over heads and raters, (G, V) float32.

        It is not renormalised over the visual tokens: a row adds up to the raters' mean share of
        attention that goes to images.
        """

    def mean_over_heads(self) -> torch.Tensor:
        """Return the mean over heads, (G, R, V) float32; filler rows are 0."""

    def mean_over_raters(self, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Return the mean over raters, (G, H, V) float32.

        Args: weight: (G, R, V), multiplied with each probability first; None for no weight.
        """


@dataclass(frozen=True)
class Distance:
    """Positions of raters and visual tokens in one rotary dimension, for the distance between them.

    Args:
        visual: (G, V) int64 positions of the visual tokens.
        raters: (G, R) int64 positions of the raters; filler rows repeat the first rater.
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

    All that may be None, and encoder, are signals: each is filled for methods that declare it.

    Args:
        site: decoder layer on whose entry the sequence gets shorter, 0 for the input.
        count: visual tokens that may leave the site, recycled ones included.
        keep_count: tokens to keep; `count - keep_count` are to be recycled.
        hidden: (G, V, D) hidden states of the visual tokens, output of layer site - 1, input
            embeddings at site 0.
        images: (G, V) int64, which image (contiguous run of visual tokens) each one belongs to,
            ascending from 0.
        attention: rater attention, or None.
        distance: positions of raters and visual tokens, or None.
        layout: where the visual tokens lay before any was removed, or None.
        text: the text behind the images, or None.
        text_states: hidden states of that text, output of layer site - 1, or None.
        decoder_keys: keys of layer site - 1 for visual tokens and that text, or None.
        norm: turns hidden states (..., D) into those behind the decoder's final norm, or None.
        encoder: what the image encoder computed for the visual tokens; it raises where nothing was
            declared.
        sizes: (G, V) float32, how many visual tokens of the prompt each one stands for, more than 1
            where an earlier site recycled tokens; or None.
        exact: whether exactly `count` tokens must leave the site; if not, fewer may.
        to_host: reads a tensor on the host; each such wait for the device is counted.
    """

    site: int
    count: int
    keep_count: int
    hidden: torch.Tensor
    images: torch.Tensor
    attention: RaterAttention | None = None
    distance: Distance | None = None
    layout: Layout | None = None
    text: TextSignal | None = None
    text_states: TextStates | None = None
    decoder_keys: DecoderKeys | None = None
    norm: Norm | None = None
    encoder: EncoderSignals = field(default_factory=EncoderSignals)
    sizes: torch.Tensor | None = None
    exact: bool = True
    to_host: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.cpu


@dataclass(frozen=True)
class Recycled:
    """Tokens rebuilt from dropped ones.

    Args:
        values: (G, C, D) hidden states.
        centres: (G, C) int64, the visual token whose place each takes.
        pool: (G, P) int64, dropped tokens that were clustered, ascending.
        labels: (G, P) int64 in 0..C-1, the cluster of each. They also tell how many visual tokens
            each recycled one stands for, which a method's `calibration` makes a bias of.
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
        recycled: tokens rebuilt from dropped ones, or None.
        score: (G, V) float32, higher is kept; for the trace, None if the method scores nothing.
    """

    keep: torch.Tensor
    recycled: Recycled | None = None
    score: torch.Tensor | None = None


def drop_group(view: View) -> View:
    """Return the view of a group of one without the dimension G."""
    attention, distance = view.attention, view.distance
    states, keys = view.text_states, view.decoder_keys
    if distance is not None:
        distance = replace(distance, visual=distance.visual[0], raters=distance.raters[0])
    return replace(
        view,
        hidden=view.hidden[0],
        images=view.images[0],
        attention=None if attention is None else _SampleAttention(attention),
        distance=distance,
        text=None if view.text is None else view.text.drop_group(),
        text_states=None if states is None else states.drop_group(),
        decoder_keys=None if keys is None else keys.drop_group(),
        encoder=view.encoder.drop_group(),
        sizes=None if view.sizes is None else view.sizes[0],
    )


def add_group(selection: Selection) -> Selection:
    """Return the answer for one sample as the answer for a group of one."""
    recycled, score = selection.recycled, selection.score
    if recycled is not None:
        parts = (recycled.values, recycled.centres, recycled.pool, recycled.labels)
        recycled = Recycled(*(part[None] for part in parts))
    return Selection(selection.keep[None], recycled, None if score is None else score[None])


@dataclass(frozen=True)
class _SampleAttention:
    """Rater attention of a group of one, without the dimension G."""

    group: RaterAttention

    @property
    def present(self) -> torch.Tensor | None:
        """None: a group of one has no filler rows."""
        return None

    def mean(self) -> torch.Tensor:
        """Return the mean over heads and raters, (V,) float32."""
        return self.group.mean()[0]

    def mean_over_heads(self) -> torch.Tensor:
        """Return the mean over heads, (R, V) float32."""
        return self.group.mean_over_heads()[0]

    def mean_over_raters(self, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Return the mean over raters, (H, V) float32; `weight` is (R, V) or None."""
        return self.group.mean_over_raters(None if weight is None else weight[None])[0]
