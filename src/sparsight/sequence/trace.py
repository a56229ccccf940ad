"""Stats and trace of the last prefill: its counts and costs, and which visual tokens were kept.

A site is the decoder layer on whose entry the sequence got shorter.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch

from sparsight.counts.cost import (
    DecoderShape,
    decoder_macs,
    kv_bytes,
    projection_macs,
    selection_macs,
)
from sparsight.counts.layout import Layout
from sparsight.counts.schedule import Accounting, Schedule


@dataclass(frozen=True)
class SiteTrace:
    """What one site kept and dropped of one sample.

    Visual tokens are given by their index among the visual tokens of the sample's prompt. A
    recycled token, which is rebuilt from a cluster of dropped ones, has the index of its centre.

    Args:
        site: decoder layer on whose entry the sequence got shorter.
        present: (V_i,) int64, visual tokens before the site.
        keep: (K,) int64, tokens kept, those that earlier sites recycled included.
        centres: (C,) int64, centres of the tokens that this site recycled.
        pool: (P,) int64, dropped tokens that were clustered.
        labels: (P,) int64 in 0..C-1, the cluster of each.
        score: (V_i,) float, higher is kept; None if the method scores nothing.
    """

    site: int
    present: torch.Tensor
    keep: torch.Tensor
    centres: torch.Tensor
    pool: torch.Tensor
    labels: torch.Tensor
    score: torch.Tensor | None

    @property
    def survivors(self) -> torch.Tensor:
        """Visual tokens after the site, recycled ones by their centres: (K + C,) int64."""
        return torch.cat([self.keep, self.centres])


@dataclass(frozen=True)
class Trace:
    """What each site kept and dropped of each sample in the last prefill.

    Args:
        samples: (B,) of each sample, one SiteTrace for each site that pruned it, in order.
        raters: (B,) of each sample, (R,) int64, slots of its raters: the text tokens whose
            attention rated its visual tokens, by index in the prompt, padding included.
        layouts: (B,) where in its images each visual token of a sample lies; None where the family
            does not know, or the sample has no visual tokens.
    """

    samples: tuple[tuple[SiteTrace, ...], ...]
    raters: tuple[torch.Tensor, ...]
    layouts: tuple[Layout | None, ...]


@dataclass(frozen=True)
class Stats:
    """Counts and costs of the last prefill, known on the host.

    One FLOP is a multiplication or an addition; a multiply-accumulate (what the paper prints as
    FLOPs) is two. FLOPs are those of the decoder layers, without padding; `prefill_flops` includes
    the cost of choosing.

    Args:
        shape: sizes of the decoder.
        sites: every site that a sample may have.
        visual_tokens: (B,) visual tokens before pruning.
        text_tokens: (B,) real text tokens.
        raters: (B,) raters, 0 where none were chosen.
        schedules: (B,) what was kept and recycled at each site.
        pools: (B,) how many dropped tokens were clustered at each site that pruned the sample.
        value_bytes: bytes of one number in the cache.
        host_reads: how often the engine waited for the device; what a method itself reads on the
            host is not counted: the outliers of `level="outliers"`, what PixelPrune counts, the
            steps of PruneSID, and SIEVE's eigenvalues, which torch checks there.
        windows: (L,) sliding window of each layer's cache, 0 for none; () where no cache layer
            slides.
        ahead: (B,) tokens whose queries, keys and values were computed once more at each site, to
            rate them by the attention of the site's own layer; () where none were.
    """

    shape: DecoderShape
    sites: tuple[int, ...]
    visual_tokens: tuple[int, ...]
    text_tokens: tuple[int, ...]
    raters: tuple[int, ...]
    schedules: tuple[Schedule, ...]
    pools: tuple[tuple[int, ...], ...]
    value_bytes: int
    host_reads: int
    windows: tuple[int, ...] = ()
    ahead: tuple[tuple[int, ...], ...] = ()

    @property
    def visual_tokens_per_layer(self) -> tuple[tuple[int, ...], ...]:
        """(B, L) visual tokens that entered each layer."""
        return tuple(schedule.entering for schedule in self.schedules)

    @property
    def tokens_per_layer(self) -> tuple[tuple[int, ...], ...]:
        """(B, L) text and visual tokens that each layer processed."""
        rows = zip(self.text_tokens, self.visual_tokens_per_layer, strict=True)
        return tuple(_add(text, visual) for text, visual in rows)

    def take_row(self, row: int) -> Self:
        """Return the counts and costs of one sample of a batch."""
        at = slice(row, row + 1)
        return replace(
            self,
            visual_tokens=self.visual_tokens[at],
            text_tokens=self.text_tokens[at],
            raters=self.raters[at],
            schedules=self.schedules[at],
            pools=self.pools[at],
            ahead=self.ahead[at],
        )

    def mean_visual_tokens_of(self, accounting: Accounting) -> float:
        """Return the layer mean of visual tokens, averaged over the samples that have any.

        Args: accounting: "entering" counts the tokens that enter a layer; "authors" counts as the
            code of SparseVLM's authors does.
        """
        means = [schedule.mean(accounting) for schedule in self.schedules if schedule.visual_tokens]
        return sum(means) / len(means) if means else 0.0

    @property
    def mean_visual_tokens(self) -> float:
        """Layer mean of visual tokens that entered a layer, as they were computed."""
        return self.mean_visual_tokens_of("entering")

    @property
    def mean_visual_tokens_authors(self) -> float:
        """Layer mean of visual tokens as SparseVLM's authors count them in their tables."""
        return self.mean_visual_tokens_of("authors")

    @property
    def prefill_flops(self) -> int:
        """FLOPs of the decoder layers over the shortened sequences, and of choosing."""
        macs = sum(decoder_macs(self.shape, row) for row in self.tokens_per_layer)
        rows = zip(self.text_tokens, self.raters, self.schedules, self.pools, strict=True)
        choosing = sum(selection_macs(self.shape, *row) for row in rows if row[1])
        choosing += sum(projection_macs(self.shape, sum(tokens)) for tokens in self.ahead)
        return 2 * (macs + choosing)

    @property
    def dense_prefill_flops(self) -> int:
        """FLOPs of the decoder layers had nothing been pruned."""
        return 2 * sum(decoder_macs(self.shape, row) for row in self._dense_rows)

    @property
    def kv_cache_bytes(self) -> int:
        """Bytes of keys and values after the prefill."""
        return sum(
            kv_bytes(self.shape, row, self.value_bytes, self.windows)
            for row in self.tokens_per_layer
        )

    @property
    def dense_kv_cache_bytes(self) -> int:
        """Bytes of keys and values had nothing been pruned."""
        return sum(
            kv_bytes(self.shape, row, self.value_bytes, self.windows) for row in self._dense_rows
        )

    @property
    def _dense_rows(self) -> list[tuple[int, ...]]:
        """(B, L) tokens that each layer would have processed had nothing been pruned."""
        pairs = zip(self.text_tokens, self.visual_tokens, strict=True)
        return [(text + visual,) * self.shape.layers for text, visual in pairs]


def _add(text: int, visual: tuple[int, ...]) -> tuple[int, ...]:
    """Return the tokens of each layer, from those of the text and the visual ones by layer."""
    return tuple(text + count for count in visual)
