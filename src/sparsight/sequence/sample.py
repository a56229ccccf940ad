"""The state of one sample on its way through the layers, and groups of samples at one site.

A site is the decoder layer on whose entry the sequence gets shorter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from sparsight.counts.layout import Layout
from sparsight.counts.schedule import Schedule
from sparsight.methods.method import Method
from sparsight.sequence.encoded import SampleSignals
from sparsight.sequence.prompt import Prompt
from sparsight.sequence.slots import copy_to_device
from sparsight.sequence.trace import SiteTrace


@dataclass
class Sample:
    """What is known on the host of one sample on its way through the layers.

    Args:
        prompt: where its tokens are.
        schedule: its planned counts; None for a sample that is not pruned.
        layout: where in its images each visual token lies, before any was removed; None where it is
            not known.
        raters: (R,) int64, slots of the text tokens whose attention rates the visual tokens.
        signals: what the method reads of the sample's image encoder and text.
        length: tokens that are there now. The prompt's padding in front is counted until the first
            site drops it; padding that a site adds in front of shorter rows is never counted.
        kept: tokens kept at each of the sample's sites so far.
        recycled: tokens recycled at each of the sample's sites so far.
        ahead: tokens of each layer that was called ahead of its turn, up to its attention.
        sites: trace of the sites where the sample was pruned.
        trimmed: whether the prompt's padding in front has been dropped.
    """

    prompt: Prompt
    schedule: Schedule | None
    layout: Layout | None
    raters: torch.Tensor
    signals: SampleSignals = field(default_factory=SampleSignals)
    length: int = 0
    kept: list[int] = field(default_factory=list)
    recycled: list[int] = field(default_factory=list)
    ahead: list[int] = field(default_factory=list)
    sites: list[SiteTrace] = field(default_factory=list)
    trimmed: bool = False

    def __post_init__(self) -> None:
        """Set `length` to that of the whole prompt."""
        self.length = self.prompt.length

    @property
    def visual_count(self) -> int:
        """How many visual tokens are there now."""
        return self.kept[-1] + self.recycled[-1] if self.kept else len(self.prompt.visual)

    @property
    def token_count(self) -> int:
        """How many tokens are there now, without padding."""
        return self.prompt.real - len(self.prompt.visual) + self.visual_count

    @property
    def exact(self) -> bool:
        """Whether its sites leave exactly what was planned; if not, that is an upper bound."""
        return self.schedule is None or self.schedule.exact

    def step_at(self, site: int) -> int | None:
        """Return the index of a site in the sample's schedule; None if it is not there."""
        sites = () if self.schedule is None else self.schedule.sites
        return sites.index(site) if site in sites else None

    def keep_all(self, site: int) -> None:
        """Add the counts of a site at which no sample of the batch is pruned."""
        if self.step_at(site) is not None:
            self.kept.append(self.visual_count)
            self.recycled.append(0)

    def record(self, site: int, kept: int, recycled: int) -> None:
        """Add the counts of a site at which the batch is rearranged, without padding in front."""
        padding = 0 if self.trimmed else self.prompt.padding
        self.length += kept + recycled - self.visual_count - padding
        self.trimmed = True
        if self.step_at(site) is not None:
            self.kept.append(kept)
            self.recycled.append(recycled)


@dataclass(frozen=True)
class Group:
    """Samples with equal numbers of visual tokens, equal counts and one layout at a site.

    Args:
        rows: indices of the samples in the batch.
        indices: (G,) int64, `rows` on the device; None for the whole batch.
        visual: visual tokens of each sample before the site.
        count: visual tokens of each sample that leave the site at most, recycled ones included.
        keep_count: how many of `count` are kept, and not recycled.
    """

    rows: tuple[int, ...]
    indices: torch.Tensor | None
    visual: int
    count: int
    keep_count: int

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the group's rows of a tensor (B, ...)."""
        return tensor if self.indices is None else tensor[self.indices]


def group_samples(
    samples: Sequence[Sample], method: Method, site: int, device: torch.device
) -> list[Group]:
    """Return the samples that are pruned at a site, those that are alike in one group.

    Args:
        samples: the batch.
        method: that chooses; one that takes no groups, or keeps other numbers of tokens than were
            planned, gets each sample alone.
        site: decoder layer on whose entry the sequence gets shorter.
        device: of the hidden states.
    """
    rows_by_key: dict[tuple[int | None, tuple[int, int, int], int], list[int]] = {}
    for row, sample in enumerate(samples):
        counts = _count(sample, site)
        if counts is not None:
            alone = None if method.batched and sample.exact else row
            rows_by_key.setdefault((alone, counts, id(sample.layout)), []).append(row)
    groups = []
    for (_, counts, _), rows in rows_by_key.items():
        indices = None if len(rows) == len(samples) else copy_to_device(rows, device)
        groups.append(Group(tuple(rows), indices, *counts))
    return groups


def _count(sample: Sample, site: int) -> tuple[int, int, int] | None:
    """Return how many visual tokens a sample has, may leave and keeps at a site.

    Returns: None if the sample is not pruned there.
    """
    step = sample.step_at(site)
    if sample.schedule is None or step is None or not sample.schedule.prunes:
        return None
    count = min(sample.schedule.counts[step], sample.visual_count)
    if sample.exact and count == sample.visual_count:
        return None
    return sample.visual_count, count, min(sample.schedule.kept[step], count)
