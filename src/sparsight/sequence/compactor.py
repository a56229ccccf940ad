"""Shortens the hidden states of one prefill, site by site.

A site is the decoder layer on whose entry the sequence gets shorter; a slot is the index of a token
in the sequence before anything was removed. This module knows slots, hidden states and a method,
and no module of any model. Samples that are alike are worked on as one group, and the whole batch
is rearranged at once. Everything stays on the device: sizes are known beforehand, so that nothing
waits for it.

Shapes: B samples of L slots; n tokens of each row before a site and n' after it; G samples of a
group, V visual tokens of each, K of them kept, C recycled ones, R raters (text tokens whose
attention rates the visual tokens).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from sparsight.methods.answer import select_tokens
from sparsight.methods.encoder import EncoderSignals
from sparsight.methods.method import Method
from sparsight.methods.parts.tensors import take
from sparsight.methods.view import Selection, View
from sparsight.sequence.decoder_signals import DecoderSignals
from sparsight.sequence.encoded import gather_encoder, stack_text
from sparsight.sequence.rater_rows import AttentionCall
from sparsight.sequence.rater_signals import RaterSignals, VisualTokens
from sparsight.sequence.rebuilt import Rebuilt, gather_rebuilt
from sparsight.sequence.sample import Group, Sample, group_samples
from sparsight.sequence.sizes import Sizes
from sparsight.sequence.slots import Batch, Slots, copy_to_device
from sparsight.sequence.trace import SiteTrace


@dataclass
class Compactor:
    """Shortens the hidden states of a batch at each site.

    Args:
        method: what to keep.
        samples: the batch.
        slots: what each slot of the batch is.
        real: (B, L) bool on the device, False for padding; None if no token is padding.
        inverse_frequencies: (L,) inverse rotary frequencies (d/2,) of each decoder layer; None
            where a position is not one number.
        to_host: reads a tensor on the host and counts the wait.
        sizes: how many visual tokens each token stands for; None if the method needs none.
        batch: the remaining tokens and their order; None while nothing has been removed.
    """

    method: Method
    samples: tuple[Sample, ...]
    slots: Slots
    real: torch.Tensor | None
    inverse_frequencies: tuple[torch.Tensor | None, ...]
    to_host: Callable[[torch.Tensor], torch.Tensor]
    sizes: Sizes | None = None
    batch: Batch | None = None

    def compact(
        self, site: int, hidden: torch.Tensor, call: Callable[[], AttentionCall | None]
    ) -> torch.Tensor:
        """Return the hidden states that are left at one site, and set `batch` to their order.

        Args:
            site: decoder layer on whose entry the sequence gets shorter, 0 for the input.
            hidden: (B, n, D) output of layer site - 1, input embeddings at site 0.
            call: returns the attention call that is read at this site: of layer site - 1, or of
                layer `site` on `hidden`; None where none is read.
        Returns: (B, n', D); `hidden` itself if no sample is pruned here.
        """
        groups = group_samples(self.samples, self.method, site, hidden.device)
        if not groups:
            for sample in self.samples:
                sample.keep_all(site)
            return hidden
        pruning = SitePruning(self, site, hidden, call())
        # scores stay float32, whatever dtype the model runs in
        with torch.autocast(hidden.device.type, enabled=False):
            for group in groups:
                pruning.choose(group)
            pruned = {row for group in groups for row in group.rows}
            for row, sample in enumerate(self.samples):
                if row not in pruned:
                    sample.record(site, sample.visual_count, 0)
            return pruning.rearrange()


class SitePruning:
    """Prunes one batch at one site: group by group it chooses, then it rearranges all rows.

    Args:
        compactor: of the prefill.
        site: decoder layer on whose entry the sequence gets shorter, 0 for the input.
        hidden: (B, n, D).
        call: attention call that is read at this site; None where none is.
    """

    def __init__(
        self, compactor: Compactor, site: int, hidden: torch.Tensor, call: AttentionCall | None
    ) -> None:
        self.compactor = compactor
        self.site = site
        self.hidden = hidden
        self.samples = compactor.samples
        device, tokens = hidden.device, hidden.shape[1]
        compactor.slots = compactor.slots.to(device)
        self.columns = torch.arange(tokens, device=device)  # (n,)
        if compactor.batch is None:
            self.order = self.columns.expand(len(hidden), -1)  # (B, n) slots
        else:
            self.order = compactor.batch.order.to(device)
        # Rows may start with padding: the prompt's until the first site, later that which the site
        # before added so that all rows are as long. Both are dropped anew at each site.
        fronts = [tokens - s.length if s.trimmed else s.prompt.padding for s in self.samples]
        self.dropped = self.columns < copy_to_device(fronts, device)[:, None]  # (B, n) bool
        self.visual = (compactor.slots.image_of.gather(1, self.order) >= 0) & ~self.dropped
        self.rebuilt: list[tuple[Group, Rebuilt]] = []
        self.decoder = DecoderSignals(compactor.method.signals, self.samples, hidden, call)
        self.signals: RaterSignals | None = None
        if "attention" in compactor.method.signals and call is not None:
            valid = compactor.real if compactor.batch is None else compactor.batch.valid
            layer = site if compactor.method.attention_of == "site" else site - 1
            frequencies = compactor.inverse_frequencies[layer]
            self.signals = RaterSignals(
                compactor.method, self.samples, compactor.slots, call, hidden, valid, frequencies
            )

    def choose(self, group: Group) -> None:
        """Have the method choose for one group, and add to what is dropped and what is rebuilt."""
        tokens = self._find_visual(group)
        view = self._make_view(group, tokens)
        selection = select_tokens(self.compactor.method, view, self.compactor.to_host)
        kept = tokens.columns.gather(1, selection.keep)  # (G, K)
        # (G, n): drop every visual token, then take the kept ones back
        dropped = (group.take(self.dropped) | group.take(self.visual)).scatter(1, kept, value=False)
        if group.indices is None:
            self.dropped = dropped
        else:
            self.dropped = self.dropped.index_copy(0, group.indices, dropped)
        recycled = selection.recycled
        if recycled is not None and recycled.centres.shape[1]:
            keys = self._make_keys(group, tokens, recycled.centres)
            slots = tokens.slots.gather(1, recycled.centres)
            self.rebuilt.append((group, Rebuilt(keys, slots, recycled.values)))
            if self.compactor.sizes is not None:
                self.compactor.sizes.add(group, tokens.slots, recycled)
        self._record(group, tokens, selection)

    def _find_visual(self, group: Group) -> VisualTokens:
        # Every sample of the group has V visual tokens, so a stable sort that puts them first gives
        # their columns in order and in a known shape; nonzero() would have to wait for the device.
        is_other = ~group.take(self.visual)
        columns = torch.sort(is_other, dim=-1, stable=True).indices[:, : group.visual]
        slots = group.take(self.order).gather(1, columns)
        images = group.take(self.compactor.slots.image_of).gather(1, slots)
        return VisualTokens(columns, slots, images)

    def _make_view(self, group: Group, tokens: VisualTokens) -> View:
        first, reads = self.samples[group.rows[0]], self.compactor.method.signals
        own = [self.samples[row].signals for row in group.rows]
        encoder, sizes = EncoderSignals(), None
        if "encoder" in reads:
            indices = group.take(self.compactor.slots.visual_index_of)
            encoder = gather_encoder(own, indices.gather(1, tokens.slots))  # names: (G, V)
        if self.compactor.sizes is not None and "sizes" in reads:
            sizes = self.compactor.sizes.take(group, tokens.slots)
        attention, distance = None, None
        if self.signals is not None:
            attention, distance = self.signals.read(group, tokens)
        view = View(
            site=self.site,
            count=group.count,
            keep_count=group.keep_count,
            hidden=take(group.take(self.hidden), tokens.columns),
            images=tokens.images,
            attention=attention,
            distance=distance,
            layout=first.layout if "layout" in reads else None,
            text=stack_text(own, self.hidden.device),
            encoder=encoder,
            sizes=sizes,
            exact=first.exact,
            to_host=self.compactor.to_host,
        )
        return self.decoder.add(view, group, tokens)

    def _make_keys(self, group: Group, tokens: VisualTokens, centres: torch.Tensor) -> torch.Tensor:
        """Return the sort keys of recycled tokens, (G, C) int64.

        A token that stays in column c has key 2c. With positions="keep", a recycled token takes the
        column of its centre, as it takes that one's position. With positions="renumber", it goes
        behind the last token c of its image, between 2c and 2c + 2.

        Args: centres: (G, C) int64 indices into the visual tokens.
        """
        if self.compactor.method.positions == "keep":
            return tokens.columns.gather(1, centres) * 2
        # an image that has lost all its tokens keeps its number, so that numbers can be indices
        images = max(self.samples[row].prompt.image_count for row in group.rows)
        columns = tokens.columns
        last = columns.new_zeros(len(columns), images)  # (G, images)
        last = last.scatter_reduce(1, tokens.images, columns, "amax")
        return last.gather(1, tokens.images.gather(1, centres)) * 2 + 1

    def _record(self, group: Group, tokens: VisualTokens, selection: Selection) -> None:
        """Add this site to counts and trace of a group's samples."""
        # the trace names a visual token by its index among the sample's original visual tokens
        present = group.take(self.compactor.slots.visual_index_of).gather(1, tokens.slots)
        keep = present.gather(1, selection.keep)
        recycled = selection.recycled
        centres = pool = labels = present[:, :0]
        if recycled is not None:
            centres = present.gather(1, recycled.centres)
            pool = present.gather(1, recycled.pool)
            labels = recycled.labels
        parts = [part.unbind() for part in (present, keep, centres, pool, labels)]
        scores = [None] * len(keep) if selection.score is None else selection.score.unbind()
        traces = zip(*parts, scores, strict=True)  # one for each sample
        for row, trace in zip(group.rows, traces, strict=True):
            self.samples[row].record(self.site, keep.shape[1], centres.shape[1])
            self.samples[row].sites.append(SiteTrace(self.site, *trace))

    def rearrange(self) -> torch.Tensor:
        """Return the shortened hidden states, (B, n', D), and set the compactor's `batch`.

        Each token has a sort key: 2c in column c, or that of `_make_keys` if it is recycled.
        Dropped tokens have the largest key, so one stable sort puts the tokens that stay first and
        in order. Rows that are shorter than others get padding in front, so that the last column of
        every row is its last token, as generate() expects.
        """
        hidden, order = self.hidden, self.order
        largest = 2 * hidden.shape[1] + 2
        keys = (self.columns * 2).masked_fill(self.dropped, largest)  # (B, n)
        if self.rebuilt:
            rebuilt = gather_rebuilt(self.rebuilt, order, hidden, largest)
            keys = torch.cat([keys, rebuilt.keys], dim=1)  # (B, n + C)
            order = torch.cat([order, rebuilt.slots], dim=1)
            hidden = torch.cat([hidden, rebuilt.values], dim=1)
        lengths = [sample.length for sample in self.samples]
        longest = max(lengths)  # n'
        columns = torch.sort(keys, dim=-1, stable=True).indices[:, :longest]  # (B, n')
        padding = None
        if min(lengths) < longest:
            missing = longest - copy_to_device(lengths, hidden.device)[:, None]
            # (B, n') number of each token in its row, below 0 for added padding
            rank = torch.arange(longest, device=hidden.device) - missing
            columns = columns.gather(1, rank.clamp_min(0))  # padding copies the row's first token
            padding = rank < 0
        order = order.gather(1, columns)
        self.compactor.batch = Batch(order, self._read_valid(order, padding))
        return hidden.gather(1, columns[..., None].expand(-1, -1, hidden.shape[-1]))

    def _read_valid(self, order: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor | None:
        """Return which of the remaining tokens are valid, (B, n') bool; None if all are.

        Args:
            order: (B, n') int64 slots.
            padding: (B, n') bool, the padding that this site added; None if it added none.
        """
        # padding in front of a prompt has been dropped; only padding within or behind it remains
        prompts = [sample.prompt for sample in self.samples]
        remains = any(prompt.length - prompt.padding > prompt.real for prompt in prompts)
        real = None
        if self.compactor.real is not None and remains:
            real = self.compactor.real.to(order.device).gather(1, order)
        if padding is None:
            return real
        return ~padding if real is None else real & ~padding
