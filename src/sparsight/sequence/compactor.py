"""One prefill: the samples' order of tokens, and how a site shortens it.

Knows slots, hidden states and a method; knows no module of any model. Everything here stays on the device: sizes are
known beforehand, so nothing waits for it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from sparsight.counts.layout import Layout
from sparsight.counts.schedule import Schedule
from sparsight.methods.answer import check_selection
from sparsight.methods.method import Method
from sparsight.methods.view import Recycled, Selection, View
from sparsight.sequence.prompt import Prompt
from sparsight.sequence.rater_rows import AttentionCall, RaterRows
from sparsight.sequence.trace import SiteTrace


@dataclass
class Sample:
    """One sample on its way through the layers.

    Args:
        prompt: its layout.
        schedule: its counts; None for a sample that is not pruned.
        order: (n,) int64 slots of the tokens that are there, in stored order.
        raters: (R,) int64 slots, on the device.
        image_of: (L,) int64 image of each slot, -1 for other tokens.
        name_of: (L,) int64 index among the original visual tokens of each slot.
        place_of: (L,) int64 number of each slot among the real tokens.
        layout: of the visual tokens before any was removed; None where it is not known.
    """

    prompt: Prompt
    schedule: Schedule | None
    order: torch.Tensor
    raters: torch.Tensor
    image_of: torch.Tensor
    name_of: torch.Tensor
    place_of: torch.Tensor
    layout: Layout | None = None
    kept: list[int] = field(default_factory=list)
    recycled: list[int] = field(default_factory=list)
    sites: list[SiteTrace] = field(default_factory=list)
    trimmed: bool = False

    @property
    def visual_count(self) -> int:
        """Visual tokens that are there now."""
        return self.kept[-1] + self.recycled[-1] if self.kept else len(self.prompt.visual)

    def step_at(self, site: int) -> int | None:
        """Which of the sample's own sites this is, from 0; None if it has none there."""
        own = () if self.schedule is None else self.schedule.sites
        return own.index(site) if site in own else None

    def move(self, device: torch.device) -> None:
        """Follow the hidden states of a model that is split over devices."""
        self.order, self.raters, self.image_of, self.name_of, self.place_of = (
            part.to(device) for part in (self.order, self.raters, self.image_of, self.name_of, self.place_of)
        )

    def split(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return where the visual tokens and the others stand in `order`, both ascending; padding goes once."""
        other = self.image_of[self.order] < 0
        where = torch.sort(other, stable=True).indices
        start = self.visual_count if self.trimmed else self.visual_count + self.prompt.padding
        return where[: self.visual_count], where[start:]


def new_sample(
    prompt: Prompt, schedule: Schedule | None, layout: Layout | None, raters: torch.Tensor, device: torch.device
) -> Sample:
    """Start a sample with every token in place."""
    image_of = torch.full((prompt.length,), -1, dtype=torch.int64)
    image_of[prompt.visual] = prompt.images
    name_of = torch.zeros(prompt.length, dtype=torch.int64)
    name_of[prompt.visual] = torch.arange(len(prompt.visual))
    order = torch.arange(prompt.length, device=device)
    raters, image_of, name_of, places = (part.to(device) for part in (raters, image_of, name_of, prompt.places))
    return Sample(prompt, schedule, order, raters, image_of, name_of, places, layout)


@dataclass(frozen=True, eq=False)  # compared and hashed by identity
class Batch:
    """The stored order of a whole batch.

    Args:
        order: (B, n) int64 slots.
        valid: (B, n) bool, False for fillers and padding; None if all are valid.
    """

    order: torch.Tensor
    valid: torch.Tensor | None


@dataclass(frozen=True)
class Stop:
    """One site in one pass.

    Args:
        site: decoder layer on whose entry the sequence gets shorter, 0 for the input.
        call: attention call of layer site - 1, None for methods that need none.
    """

    site: int
    call: AttentionCall | None


@dataclass
class Compactor:
    """Shortens the hidden states of a batch at each site.

    Args:
        method: what to keep.
        samples: the batch.
        real: (B, L) bool on the device, None if nothing is padding.
        inverse_frequencies: (L,) for each layer (d/2,) of its rotary positions, or None.
        to_host: reads a tensor on the host and counts the wait.
        batch: what the sequence is now; None while nothing has been removed.
    """

    method: Method
    samples: tuple[Sample, ...]
    real: torch.Tensor | None
    inverse_frequencies: tuple[torch.Tensor | None, ...]
    to_host: Callable[[torch.Tensor], torch.Tensor]
    batch: Batch | None = None

    def compact(self, site: int, hidden: torch.Tensor, call: Callable[[], AttentionCall | None]) -> torch.Tensor:
        """Shorten `hidden` at one site.

        Args:
            site: decoder layer on whose entry the sequence gets shorter.
            hidden: (B, n, D) output of layer site - 1, input embeddings at site 0.
            call: gives the attention call of layer site - 1, None for methods that need none.
        Returns: (B, n', D); `batch` then says which slots these are. `hidden` itself if no sample is pruned here.
        """
        active = [self._is_active(sample, site) for sample in self.samples]
        if not any(active):
            for sample in self.samples:
                _note_nothing(sample, site)
            return hidden
        stop, rows = Stop(site, call()), []
        with torch.autocast(hidden.device.type, enabled=False):  # scores stay float32, whatever the model runs in
            for index, sample in enumerate(self.samples):
                sample.move(hidden.device)
                own = hidden[index, hidden.shape[1] - len(sample.order) :]  # fillers stand in front
                rows.append(self._shorten(index, stop, own) if active[index] else _whole(sample, own, site))
            return self._stack(rows, hidden)

    def _is_active(self, sample: Sample, site: int) -> bool:
        if sample.schedule is None or not self.method.prunes(sample.schedule):
            return False
        step = sample.step_at(site)
        return step is not None and (self.method.adaptive or sample.schedule.counts[step] < sample.visual_count)

    def _shorten(self, index: int, stop: Stop, own: torch.Tensor) -> torch.Tensor:
        sample = self.samples[index]
        visual, other = sample.split()
        view = self._view(index, stop, own, visual)
        selection = check_selection(self.method.select(view), self.method, view, self.to_host)
        _record(sample, stop.site, visual, selection)
        recycled = selection.recycled
        stay = torch.cat([other, visual[selection.keep]])
        source, key = stay, stay * 2
        if recycled is not None:
            centres = visual[recycled.centres]
            source, key = torch.cat([stay, centres]), torch.cat([key, self._keys(sample, visual, recycled, centres)])
        place = torch.sort(key, stable=True).indices
        values = own[stay] if recycled is None else torch.cat([own[stay], recycled.values])
        sample.order = sample.order[source[place]]
        sample.kept.append(len(selection.keep))
        sample.recycled.append(len(source) - len(stay))
        sample.trimmed = True
        return values[place]

    def _keys(self, sample: Sample, visual: torch.Tensor, recycled: Recycled, centres: torch.Tensor) -> torch.Tensor:
        """Where recycled tokens stand: at their centres, or (renumbered) behind the last token of their image."""
        if self.method.positions == "keep":
            return centres * 2
        images = sample.image_of[sample.order[visual]]
        last = images.new_zeros(sample.prompt.image_count).scatter_reduce(0, images, visual, "amax")
        return last[images[recycled.centres]] * 2 + 1

    def _view(self, index: int, stop: Stop, own: torch.Tensor, visual: torch.Tensor) -> View:
        sample = self.samples[index]
        step = sample.step_at(stop.site)
        if sample.schedule is None or step is None:
            raise TypeError("a sample without a schedule is not pruned")
        count = min(sample.schedule.counts[step], sample.visual_count)
        # text after the last image is never dropped, so it stands as far from the end as it did
        raters = sample.raters - (sample.prompt.length - len(sample.order))
        keep_positions = self.method.positions == "keep"
        attention, frequencies = None, self.inverse_frequencies[max(stop.site - 1, 0)]
        if stop.call is not None:
            fillers = stop.call.query.shape[2] - len(sample.order)
            keys_before = stop.call.key.shape[2] - len(sample.order)
            attention = RaterRows(stop.call, index, raters + fillers, visual + keys_before)
        return View(
            site=stop.site,
            count=count,
            keep_count=min(sample.schedule.kept[step], count),
            hidden=own[visual],
            images=sample.image_of[sample.order[visual]],
            positions=sample.place_of[sample.order[visual]] if keep_positions else visual,
            rater_positions=sample.place_of[sample.raters] if keep_positions else raters,
            length=sample.prompt.length,
            inverse_frequencies=None if frequencies is None else frequencies.to(own.device),
            attention=attention,
            index=index,
            layout=sample.layout,
        )

    def _stack(self, rows: list[torch.Tensor], hidden: torch.Tensor) -> torch.Tensor:
        """Bring rows of different lengths to one, fillers in front."""
        longest = max(len(row) for row in rows)
        order = torch.stack([_front(sample.order, longest) for sample in self.samples])
        valid = None
        if any(len(row) < longest for row in rows):
            lengths = torch.tensor([len(row) for row in rows], device=hidden.device)
            valid = torch.arange(longest, device=hidden.device) >= longest - lengths[:, None]
        if self.real is not None:
            real = self.real.to(order.device).gather(1, order)
            valid = real if valid is None else real & valid
        if valid is not None and not any(_has_invalid(s, longest) for s in self.samples):
            valid = None
        self.batch = Batch(order, valid)
        return torch.stack([_front(row, longest) for row in rows])


def _has_invalid(sample: Sample, longest: int) -> bool:
    """Whether fillers or padding remain in a sample, known on the host."""
    prompt = sample.prompt
    return len(sample.order) < longest or prompt.length - prompt.padding > prompt.real


def _front(row: torch.Tensor, length: int) -> torch.Tensor:
    """Fill up in front with copies of the first entry."""
    missing = length - len(row)
    return torch.cat([row[:1].expand(missing, *row.shape[1:]), row]) if missing else row


def _whole(sample: Sample, own: torch.Tensor, site: int) -> torch.Tensor:
    """Keep everything but the padding in front."""
    start = 0 if sample.trimmed else sample.prompt.padding
    sample.trimmed = True
    sample.order = sample.order[start:]
    _note_nothing(sample, site)
    return own[start:]


def _note_nothing(sample: Sample, site: int) -> None:
    if sample.step_at(site) is not None:
        count = sample.visual_count
        sample.kept.append(count)
        sample.recycled.append(0)


def _record(sample: Sample, site: int, visual: torch.Tensor, selection: Selection) -> None:
    present = sample.name_of[sample.order[visual]]
    recycled, none = selection.recycled, present[:0]
    sample.sites.append(
        SiteTrace(
            site=site,
            present=present,
            keep=present[selection.keep],
            centres=none if recycled is None else present[recycled.centres],
            pool=none if recycled is None else present[recycled.pool],
            labels=none if recycled is None else recycled.labels,
            score=selection.score,
        )
    )
