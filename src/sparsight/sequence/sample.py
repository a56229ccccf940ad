"""One sample on its way through the layers, and samples that are alike at one site."""

from dataclasses import dataclass, field

import torch

from sparsight.counts.layout import Layout
from sparsight.counts.schedule import Schedule
from sparsight.sequence.prompt import Prompt
from sparsight.sequence.trace import SiteTrace


@dataclass
class Sample:
    """One sample on its way through the layers: what is known on the host.

    Args:
        prompt: where its tokens are.
        schedule: its counts; None for a sample that is not pruned.
        layout: of the visual tokens before any was removed; None where it is not known.
        raters: (R,) int64 slots.
        length: tokens that are there now, padding in front included until the first site; fillers
            are not counted.
    """

    prompt: Prompt
    schedule: Schedule | None
    layout: Layout | None
    raters: torch.Tensor
    length: int = 0
    kept: list[int] = field(default_factory=list)
    recycled: list[int] = field(default_factory=list)
    sites: list[SiteTrace] = field(default_factory=list)
    trimmed: bool = False

    def __post_init__(self) -> None:
        """Start with every token in place."""
        self.length = self.prompt.length

    @property
    def visual_count(self) -> int:
        """Visual tokens that are there now."""
        return self.kept[-1] + self.recycled[-1] if self.kept else len(self.prompt.visual)

    @property
    def exact(self) -> bool:
        """Whether its sites leave exactly what was planned; if not, that is an upper bound."""
        return self.schedule is None or self.schedule.exact

    def step_at(self, site: int) -> int | None:
        """Which of the sample's own sites this is, from 0; None if it has none there."""
        own = () if self.schedule is None else self.schedule.sites
        return own.index(site) if site in own else None

    def note(self, site: int, kept: int, recycled: int) -> None:
        """Write down what a site left, padding in front dropped."""
        padding = 0 if self.trimmed else self.prompt.padding
        self.length += kept + recycled - self.visual_count - padding
        self.trimmed = True
        if self.step_at(site) is not None:
            self.kept.append(kept)
            self.recycled.append(recycled)


@dataclass(frozen=True)
class Group:
    """Samples alike at one site: the same number of visual tokens, the same counts, the same layout.

    Args:
        rows: their places in the batch.
        taken: (G,) int64 the same on the device; None for the whole batch.
        visual: visual tokens of each.
        count: that leave the site.
        keep_count: of them, not recycled.
    """

    rows: tuple[int, ...]
    taken: torch.Tensor | None
    visual: int
    count: int
    keep_count: int

    def take(self, part: torch.Tensor) -> torch.Tensor:
        """Return the group's rows of a tensor of the batch."""
        return part if self.taken is None else part[self.taken]
