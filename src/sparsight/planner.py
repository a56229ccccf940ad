"""What token ids alone tell of a batch: where the visual tokens are, their grids, and how many stay. Host side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sparsight.budget import Schedule
from sparsight.families import Family
from sparsight.grid import Grids
from sparsight.method import Method
from sparsight.prompt import run_lengths


@dataclass(frozen=True)
class Outline:
    """A batch before anything ran.

    Args:
        visual: (B, L) bool.
        grids: (B,) grids of each sample's visual tokens; None where the family does not know, or there are none.
        schedules: (B,) planned counts; None for samples without visual tokens.
    """

    visual: torch.Tensor
    grids: tuple[Grids | None, ...]
    schedules: tuple[Schedule | None, ...]


@dataclass(frozen=True)
class Planner:
    """Plans the batches of one model.

    Args:
        family: where its parts are.
        config: of the base model.
        method: what to keep.
        layers: of its decoder.
    """

    family: Family
    config: Any
    method: Method
    layers: int

    def outline(
        self, input_ids: torch.Tensor, given: Mapping[str, Any], known: Sequence[Grids | None] | None = None
    ) -> Outline:
        """Plan each sample's counts from its token ids.

        Args:
            input_ids: (B, L) int64 on the host.
            given: arguments of the base model, its images among them.
            known: (B,) grids that were announced, for a pass whose arguments no longer tell them.
        Raises: BudgetError: a sample's budget cannot be met.
        """
        visual = torch.isin(input_ids, torch.tensor(self.family.placeholder_ids(self.config)))
        if known is None and self.family.sample_grids is not None:
            known = self.family.sample_grids(self.config, input_ids, given)
        return self.plan(visual, given, known)

    def plan(self, visual: torch.Tensor, given: Mapping[str, Any], known: Sequence[Grids | None] | None) -> Outline:
        """Plan each sample's counts from where its visual tokens are, (B, L) bool on the host; for the rest see above.

        Raises: BudgetError: a sample's budget cannot be met.
        """
        known = known or (None,) * len(visual)
        rows = [(run_lengths(row), grids) for row, grids in zip(visual, known, strict=True)]
        plans = {own: self._plan(*own, given) for own in set(rows)}  # samples alike share a plan
        return Outline(visual, tuple(plans[own][0] for own in rows), tuple(plans[own][1] for own in rows))

    def _plan(
        self, runs: tuple[int, ...], grids: Grids | None, given: Mapping[str, Any]
    ) -> tuple[Grids | None, Schedule | None]:
        if not runs:
            return None, None
        if grids is None:
            grids = self.family.grids(self.config, given, runs)
        return grids, self.method.schedule_on(grids, sum(runs), self.layers)
