"""What token ids alone tell of a batch: where the visual tokens are and lie, and how many stay. Host side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sparsight.counts.layout import Layout
from sparsight.counts.schedule import Schedule
from sparsight.errors import PromptError
from sparsight.families import Family
from sparsight.methods.method import Method
from sparsight.sequence.question import check_questions, read_marks


@dataclass(frozen=True)
class Outline:
    """A batch before anything ran.

    Args:
        visual: (B, L) bool.
        layouts: (B,) where each sample's visual tokens lie; None where the family does not know, or
            there are none.
        schedules: (B,) planned counts; None for samples without visual tokens.
    """

    visual: torch.Tensor
    layouts: tuple[Layout | None, ...]
    schedules: tuple[Schedule | None, ...]


@dataclass(frozen=True)
class Planner:
    """Plans the batches of one model.

    Args:
        model: whose generation config names what ends a turn.
        family: where its parts are.
        config: of the base model.
        method: what to keep.
        layers: of its decoder.
    """

    model: Any
    family: Family
    config: Any
    method: Method
    layers: int

    def outline(
        self,
        input_ids: torch.Tensor,
        given: Mapping[str, Any],
        known: Sequence[Layout | None] | None = None,
    ) -> Outline:
        """Plan each sample's counts from its token ids.

        Args:
            input_ids: (B, L) int64 on the host.
            given: arguments of the base model, its images among them.
            known: (B,) layouts that were announced, for a pass whose arguments no longer tell them.
        Raises: BudgetError: a sample's budget cannot be met.
        """
        visual = torch.isin(input_ids, torch.tensor(self.family.placeholder_ids(self.config)))
        if known is None and self.family.layouts is not None:
            known = self.family.layouts(self.config, input_ids, given)
        return self.plan(visual, known)

    def plan(self, visual: torch.Tensor, known: Sequence[Layout | None] | None) -> Outline:
        """Plan each sample's counts from where its visual tokens are, (B, L) bool on the host; for the rest see above.

        Raises: BudgetError: a sample's budget cannot be met.
        """
        known = known or (None,) * len(visual)
        rows = [(int(row.sum()), layout) for row, layout in zip(visual, known, strict=True)]
        plans = {own: self._plan(*own) for own in set(rows)}  # samples alike share a plan
        return Outline(
            visual, tuple(layout for _, layout in rows), tuple(plans[own] for own in rows)
        )

    def _plan(self, count: int, layout: Layout | None) -> Schedule | None:
        if layout is not None and len(layout) != count:
            raise ValueError(
                f"the layout of {len(layout)} tokens is not that of {count} visual tokens"
            )
        return self.method.schedule_on(layout, count, self.layers) if count else None

    def check_questions(
        self,
        ids: torch.Tensor,
        outline: Outline,
        rating: int | None,
        mask: Callable[[int], torch.Tensor | None],
    ) -> None:
        """Check that words that can rate them follow the images of each sample, if the method asks for raters.

        Args:
            ids: (B, L) int64 on the host; negative ones are no part of the prompt.
            outline: of the batch.
            rating: how many tokens at the end of a prompt may rate; None for all behind its images.
            mask: gives the prompt's mask, (B, L) bool on the host, for L; None if all tokens are
                real.
        Raises: PromptError: none follow.
        """
        pruned = any(
            schedule is not None and self.method.prunes(schedule) for schedule in outline.schedules
        )
        if "attention" in self.method.signals and pruned:
            real = mask(ids.shape[1])
            shown = ids if real is None or real.shape != ids.shape else ids.masked_fill(~real, -1)
            check_questions(shown, outline.visual, read_marks(self.model, self.config), rating)

    def refuse_unknown(self, ids: torch.Tensor, names: list[str]) -> None:
        """Check that a prompt whose arguments may hold images under unknown names has no visual tokens.

        Raises: PromptError: it has some, which would go unpruned.
        """
        if bool(torch.isin(ids, torch.tensor(self.family.placeholder_ids(self.config))).any()):
            raise PromptError(
                f"the prompt has visual tokens, and {', '.join(names)} may be their images, but {self.family.name} "
                f"takes images as {' or '.join(self.family.features)}; give them by that name."
            )
