"""Reads what raters tell at one site: their attention to visual tokens, and their distance.

A rater is a text token whose attention rates the visual tokens. Text behind the last image is never
dropped, and padding that pruning adds stands in front of a row. So a rater stands as far from the
end of its row as in the prompt, which tells its column at every site.

Shapes: B samples of L slots; n tokens of each row before the site; G samples of a group, V visual
tokens of each, R raters.
"""

from dataclasses import dataclass

import torch

from sparsight.methods.method import Method
from sparsight.methods.view import Distance
from sparsight.sequence.masks import contiguous_positions
from sparsight.sequence.rater_rows import AttentionCall, RaterRows
from sparsight.sequence.sample import Group, Sample
from sparsight.sequence.slots import Slots, copy_to_device


@dataclass(frozen=True, eq=False)
class VisualTokens:
    """The visual tokens that a group has before a site, in order.

    Args:
        columns: (G, V) int64, where each token stands in its row of the hidden states, ascending.
        slots: (G, V) int64, slot of each token.
        images: (G, V) int64, which image each token belongs to.
    """

    columns: torch.Tensor
    slots: torch.Tensor
    images: torch.Tensor


@dataclass(frozen=True, eq=False)
class RaterSignals:
    """What the raters of a batch tell at one site.

    Args:
        method: that reads it.
        samples: the batch.
        slots: what each slot of the batch is.
        call: attention call that is read at the site, of the layer before it or of its own.
        hidden: (B, n, D) hidden states before the site.
        valid: (B, n) bool, False for padding; None if no token is padding.
        frequencies: (d/2,) inverse rotary frequencies of that layer; None where a position is not
            one number.
    """

    method: Method
    samples: tuple[Sample, ...]
    slots: Slots
    call: AttentionCall
    hidden: torch.Tensor
    valid: torch.Tensor | None
    frequencies: torch.Tensor | None

    def read(self, group: Group, tokens: VisualTokens) -> tuple[RaterRows, Distance | None]:
        """Return a group's attention and, if the method reads it, distance.

        Args:
            group: of the batch.
            tokens: its visual tokens.
        """
        raters, present = self._gather_raters(group)
        length = self.samples[0].prompt.length
        rows = raters - (length - self.call.query.shape[2])
        # keys of the cache stand in front of those of this pass
        columns = tokens.columns + (self.call.key.shape[2] - self.hidden.shape[1])
        attention = RaterRows(self.call, group.indices, rows, columns, present)
        return attention, self._measure_distance(group, tokens, raters)

    def _gather_raters(self, group: Group) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the slots of a group's raters, (G, R) int64, and which of them count, (G, R) bool.

        Samples with fewer raters than others repeat their first one, which does not count. The
        second tensor is None if all samples have R raters.
        """
        counts = [len(self.samples[row].raters) for row in group.rows]
        raters = group.take(self.slots.raters)[:, : max(counts)]
        if len(set(counts)) == 1:
            return raters, None
        index = torch.arange(max(counts), device=raters.device)
        return raters, index < copy_to_device(counts, raters.device)[:, None]

    def _measure_distance(
        self, group: Group, tokens: VisualTokens, raters: torch.Tensor
    ) -> Distance | None:
        """Return the rotary positions of visual tokens and raters, if the method reads them."""
        if "distance" not in self.method.signals or self.frequencies is None:
            return None
        length = self.samples[0].prompt.length
        if self.method.positions == "keep":  # by slot, (G, L)
            positions = group.take(self.slots.position_of)
            visual, rating = positions.gather(1, tokens.slots), positions.gather(1, raters)
        else:  # by column, (G, n)
            positions = group.take(self._renumber())
            rows = raters - (length - self.hidden.shape[1])
            visual, rating = positions.gather(1, tokens.columns), positions.gather(1, rows)
        return Distance(visual, rating, length, self.frequencies.to(self.hidden.device))

    def _renumber(self) -> torch.Tensor:
        """Return the index of each token among the real tokens of its row, (B, n) int64."""
        device, count = self.hidden.device, self.hidden.shape[1]
        valid = None if self.valid is None else self.valid.to(device)
        return contiguous_positions(valid, count, count, device).expand(len(self.hidden), -1)
