"""One prefill: the order of tokens of a batch, and how a site shortens it.

Knows slots, hidden states and a method; knows no module of any model. Samples that are alike are
worked on as a group, and the whole batch is rearranged at once. Everything here stays on the
device: sizes are known beforehand, so nothing waits for it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from sparsight.methods.answer import select_tokens
from sparsight.methods.method import Method
from sparsight.methods.view import Distance, Selection, View
from sparsight.sequence.rater_rows import AttentionCall, RaterRows
from sparsight.sequence.sample import Group, Sample
from sparsight.sequence.slots import Batch, Slots, on_device
from sparsight.sequence.trace import SiteTrace


@dataclass
class Compactor:
    """Shortens the hidden states of a batch at each site.

    Args:
        method: what to keep.
        samples: the batch.
        slots: what the slots of the batch are.
        real: (B, L) bool on the device, None if nothing is padding.
        inverse_frequencies: (L,) for each layer (d/2,) of its rotary positions, or None.
        to_host: reads a tensor on the host and counts the wait.
        batch: what the sequence is now; None while nothing has been removed.
    """

    method: Method
    samples: tuple[Sample, ...]
    slots: Slots
    real: torch.Tensor | None
    inverse_frequencies: tuple[torch.Tensor | None, ...]
    to_host: Callable[[torch.Tensor], torch.Tensor]
    batch: Batch | None = None

    def compact(
        self, site: int, hidden: torch.Tensor, call: Callable[[], AttentionCall | None]
    ) -> torch.Tensor:
        """Shorten `hidden` at one site.

        Args:
            site: decoder layer on whose entry the sequence gets shorter.
            hidden: (B, n, D) output of layer site - 1, input embeddings at site 0.
            call: gives the attention call of layer site - 1, None for methods that need none.
        Returns: (B, n', D); `batch` then says which slots these are. `hidden` itself if no sample
            is pruned here.
        """
        groups = self._groups(site, hidden.device)
        if not groups:
            for sample in self.samples:
                if sample.step_at(site) is not None:
                    sample.kept.append(sample.visual_count)
                    sample.recycled.append(0)
            return hidden
        stop = Stop(self, site, hidden, call())
        with torch.autocast(
            hidden.device.type, enabled=False
        ):  # scores stay float32, whatever the model runs in
            for group in groups:
                stop.choose(group)
            pruned = {row for group in groups for row in group.rows}
            for row, sample in enumerate(self.samples):
                if row not in pruned:
                    sample.note(site, sample.visual_count, 0)
            return stop.rearrange()

    def _groups(self, site: int, device: torch.device) -> list[Group]:
        found: dict[tuple[int | None, tuple[int, int, int], int], list[int]] = {}
        for row, sample in enumerate(self.samples):
            counts = self._counts(sample, site)
            if counts is not None:
                together = self.method.batched and sample.exact
                alone = None if together else row
                found.setdefault((alone, counts, id(sample.layout)), []).append(row)
        groups = []
        for (_, (visual, count, keep_count), _), rows in found.items():
            taken = None if len(rows) == len(self.samples) else on_device(rows, device)
            groups.append(Group(tuple(rows), taken, visual, count, keep_count))
        return groups

    def _counts(self, sample: Sample, site: int) -> tuple[int, int, int] | None:
        """Return how many visual tokens a sample has, may leave and keeps at a site; None if it is not pruned there."""
        step = sample.step_at(site)
        if sample.schedule is None or step is None or not sample.schedule.prunes:
            return None
        count = min(sample.schedule.counts[step], sample.visual_count)
        if sample.exact and count == sample.visual_count:
            return None
        return sample.visual_count, count, min(sample.schedule.kept[step], count)


class Stop:
    """One site in one pass: groups choose one after the other, then the batch is rearranged at once.

    Args:
        compactor: whose samples stop.
        site: decoder layer on whose entry the sequence gets shorter, 0 for the input.
        hidden: (B, n, D).
        call: attention call of layer site - 1, None for methods that need none.
    """

    def __init__(
        self, compactor: Compactor, site: int, hidden: torch.Tensor, call: AttentionCall | None
    ) -> None:
        self.compactor, self.site, self.hidden, self.call = compactor, site, hidden, call
        self.samples, device = compactor.samples, hidden.device
        compactor.slots = compactor.slots.to(device)
        tokens = hidden.shape[1]
        self.index = torch.arange(tokens, device=device)
        if compactor.batch is None:
            self.order = self.index.expand(len(hidden), -1)
        else:
            self.order = compactor.batch.order.to(device)
        fronts = [tokens - s.length if s.trimmed else s.prompt.padding for s in self.samples]
        self.gone = (
            self.index < on_device(fronts, device)[:, None]
        )  # (B, n) fillers and padding in front
        self.visual = (compactor.slots.image_of.gather(1, self.order) >= 0) & ~self.gone
        self.rebuilt: list[tuple[Group, torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def choose(self, group: Group) -> None:
        """Have the method choose for one group, and note what is gone and what is rebuilt."""
        slots = self.compactor.slots
        # (G, V) where the visual tokens stand, ascending
        places = torch.sort(~group.take(self.visual), dim=-1, stable=True).indices[
            :, : group.visual
        ]
        named = group.take(self.order).gather(1, places)  # (G, V) their slots
        images = group.take(slots.image_of).gather(1, named)
        view = self._view(group, places, named, images)
        selection = select_tokens(self.compactor.method, view, self.compactor.to_host)
        kept = places.gather(1, selection.keep)
        gone = (group.take(self.gone) | group.take(self.visual)).scatter(1, kept, value=False)
        self.gone = gone if group.taken is None else self.gone.index_copy(0, group.taken, gone)
        if selection.recycled is not None and selection.recycled.centres.shape[1]:
            centres = selection.recycled.centres
            keys = self._keys(group, places, images, centres)
            self.rebuilt.append((group, keys, named.gather(1, centres), selection.recycled.values))
        self._record(group, named, selection)

    def _view(
        self, group: Group, places: torch.Tensor, named: torch.Tensor, images: torch.Tensor
    ) -> View:
        method, first = self.compactor.method, self.samples[group.rows[0]]
        width, attention, distance = self.hidden.shape[-1], None, None
        if "attention" in method.signals and self.call is not None:
            attention, distance = self._attention(group, places, named)
        return View(
            site=self.site,
            count=group.count,
            keep_count=group.keep_count,
            hidden=group.take(self.hidden).gather(1, places[..., None].expand(-1, -1, width)),
            images=images,
            attention=attention,
            distance=distance,
            layout=first.layout if "layout" in method.signals else None,
            exact=first.exact,
        )

    def _attention(
        self, group: Group, places: torch.Tensor, named: torch.Tensor
    ) -> tuple[RaterRows | None, Distance | None]:
        call, slots = self.call, self.compactor.slots
        if call is None:
            return None, None
        counts = [len(self.samples[row].raters) for row in group.rows]
        raters = group.take(slots.raters)[:, : max(counts)]  # (G, R) slots
        present = None
        if len(set(counts)) > 1:
            present = (
                torch.arange(max(counts), device=raters.device)
                < on_device(counts, raters.device)[:, None]
            )
        # text after the last image is never dropped, so it stands as far from the end as it did
        tokens, length = self.hidden.shape[1], self.samples[0].prompt.length
        rows = raters - (length - call.query.shape[2])
        columns = places + (call.key.shape[2] - tokens)
        attention = RaterRows(call, group.taken, rows, columns, present)
        frequencies = self.compactor.inverse_frequencies[max(self.site - 1, 0)]
        if "distance" not in self.compactor.method.signals or frequencies is None:
            return attention, None
        if self.compactor.method.positions == "keep":
            number = group.take(slots.place_of)
            visual, asked = number.gather(1, named), number.gather(1, raters)
        else:
            number = group.take(self._numbers())
            visual, asked = number.gather(1, places), number.gather(1, raters - (length - tokens))
        return attention, Distance(visual, asked, length, frequencies.to(self.hidden.device))

    def _numbers(self) -> torch.Tensor:
        """Return the number of each token among the real ones that are there, (B, n) int64, as renumbering counts."""
        batch = self.compactor.batch
        valid = self.compactor.real if batch is None else batch.valid
        if valid is None:
            return self.index.expand(len(self.hidden), -1)
        return (valid.to(self.hidden.device).long().cumsum(dim=1) - 1).clamp_min(0)

    def _keys(
        self, group: Group, places: torch.Tensor, images: torch.Tensor, centres: torch.Tensor
    ) -> torch.Tensor:
        """Where recycled tokens stand: at their centres, or (renumbered) behind the last token of their image."""
        if self.compactor.method.positions == "keep":
            return places.gather(1, centres) * 2
        count = max(
            self.samples[row].prompt.image_count for row in group.rows
        )  # images that are gone keep their number
        last = places.new_zeros(len(places), count).scatter_reduce(1, images, places, "amax")
        return last.gather(1, images.gather(1, centres)) * 2 + 1

    def _record(self, group: Group, named: torch.Tensor, selection: Selection) -> None:
        present, recycled = (
            group.take(self.compactor.slots.name_of).gather(1, named),
            selection.recycled,
        )
        none = present[:, :0]
        keep, centres, pool, labels = present.gather(1, selection.keep), none, none, none
        if recycled is not None:
            centres, pool = present.gather(1, recycled.centres), present.gather(1, recycled.pool)
            labels = recycled.labels
        rows = [part.unbind() for part in (present, keep, centres, pool, labels)]
        scores = None if selection.score is None else selection.score.unbind()
        for place, row in enumerate(group.rows):
            own = [part[place] for part in rows]
            score = None if scores is None else scores[place]
            self.samples[row].note(self.site, keep.shape[1], centres.shape[1])
            self.samples[row].sites.append(
                SiteTrace(self.site, own[0], own[1], own[2], own[3], own[4], score)
            )

    def rearrange(self) -> torch.Tensor:
        """Return the shortened hidden states, (B, n', D), and note what they are; fillers stand in front."""
        hidden, order, end = self.hidden, self.order, 2 * self.hidden.shape[1] + 2
        keys = (self.index * 2).masked_fill(self.gone, end)  # (B, n)
        if self.rebuilt:
            added = self._added(end)
            keys, order, hidden = (
                torch.cat(pair, dim=1) for pair in zip((keys, order, hidden), added, strict=True)
            )
        lengths = [sample.length for sample in self.samples]
        longest = max(lengths)
        found = torch.sort(keys, dim=-1, stable=True).indices[
            :, :longest
        ]  # (B, n') what stays comes first
        filled = None
        if min(lengths) < longest:
            missing = longest - on_device(lengths, hidden.device)[:, None]
            rank = (
                torch.arange(longest, device=hidden.device) - missing
            )  # below 0: a filler, which copies the first
            found, filled = found.gather(1, rank.clamp_min(0)), rank < 0
        order = order.gather(1, found)
        self.compactor.batch = Batch(order, self._valid(order, filled))
        return hidden.gather(1, found[..., None].expand(-1, -1, hidden.shape[-1]))

    def _added(self, end: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return keys (B, C), slots (B, C) and values (B, C, D) of what is rebuilt; `end` where a sample has fewer."""
        first, *more = self.rebuilt
        if not more and first[0].taken is None:
            return first[1:]
        most = max(keys.shape[1] for _, keys, _, _ in self.rebuilt)
        batch, width = len(self.hidden), self.hidden.shape[-1]
        keys, slots = self.order.new_full((batch, most), end), self.order.new_zeros((batch, most))
        values = self.hidden.new_zeros(batch, most, width)
        for group, key, slot, value in self.rebuilt:
            rows = slice(None) if group.taken is None else group.taken
            for whole, part in ((keys, key), (slots, slot), (values, value)):
                whole[rows, : part.shape[1]] = part
        return keys, slots, values

    def _valid(self, order: torch.Tensor, filled: torch.Tensor | None) -> torch.Tensor | None:
        padded = any(
            s.prompt.length - s.prompt.padding > s.prompt.real for s in self.samples
        )  # behind or within
        real = (
            None
            if self.compactor.real is None or not (padded or filled is not None)
            else self.compactor.real
        )
        if real is not None:
            real = real.to(order.device).gather(1, order)
        if filled is None:
            return real
        return ~filled if real is None else real & ~filled
