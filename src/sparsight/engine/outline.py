"""The outline of a batch: where its visual tokens are and lie, and how many stay. Host side.

Read from token ids alone, before any image is encoded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sparsight.counts.layout import Grid, Layout
from sparsight.counts.schedule import Schedule
from sparsight.engine.parts import Parts
from sparsight.errors import PromptError
from sparsight.methods.method import Method
from sparsight.sequence.question import check_questions, read_special_ids

Scale = tuple[Grid, Grid]  # the grid the prompt has placeholders for, and the grid that is encoded


@dataclass(frozen=True)
class Outline:
    """A batch before anything ran.

    Args:
        visual: (B, L) bool.
        counts: (B,) visual tokens of each sample.
        layouts: (B,) where each sample's visual tokens lie; None where the family does not know, or
            there are none.
        schedules: (B,) planned counts; None for samples without visual tokens.
        candidates: last tokens of each row that are no part of the prompt.
        scale: how the images are scaled down; None if they stay as they are.
    """

    visual: torch.Tensor
    counts: tuple[int, ...]
    layouts: tuple[Layout | None, ...]
    schedules: tuple[Schedule | None, ...]
    candidates: int = 0
    scale: Scale | None = None


@dataclass(frozen=True)
class Planner:
    """Plans the batches of one model.

    Args:
        parts: of the model.
        method: what to keep.
    """

    parts: Parts
    method: Method

    def outline(
        self,
        input_ids: torch.Tensor,
        given: Mapping[str, Any],
        announced: Sequence[Layout | None] | None = None,
        candidates: int = 0,
    ) -> Outline:
        """Return each sample's planned counts, from its token ids.

        Args:
            input_ids: (B, L) int64 on the host.
            given: arguments of the base model, its images among them.
            announced: (B,) layouts that generate() announced, for a pass whose arguments no longer
                tell them.
            candidates: last tokens of each row that are no part of the prompt.
        Raises: BudgetError: a sample's budget cannot be met.
        """
        family, config = self.parts.family, self.parts.config
        visual = torch.isin(input_ids, torch.tensor(family.placeholder_ids(config)))
        layouts = announced
        if layouts is None and family.layouts is not None:
            layouts = family.layouts(config, input_ids, given)
        return self.plan(visual, layouts, candidates)

    def plan(
        self,
        visual: torch.Tensor,
        layouts: Sequence[Layout | None] | None,
        candidates: int = 0,
    ) -> Outline:
        """Return each sample's planned counts, from where its visual tokens are.

        Args:
            visual: (B, L) bool on the host.
            layouts: (B,) where each sample's visual tokens lie; None if no sample's are known.
            candidates: last tokens of each row that are no part of the prompt.
        Raises: BudgetError: a sample's budget cannot be met.
        """
        layouts = layouts or (None,) * len(visual)
        rows = list(zip(visual.sum(dim=1).tolist(), layouts, strict=True))
        plans = {row: self._plan(*row) for row in set(rows)}  # samples alike share a plan
        return Outline(
            visual,
            tuple(count for count, _ in rows),
            tuple(layout for _, layout in rows),
            tuple(plans[row] for row in rows),
            candidates,
        )

    def _plan(self, count: int, layout: Layout | None) -> Schedule | None:
        if layout is not None and len(layout) != count:
            raise ValueError(
                f"the layout of {len(layout)} tokens is not that of {count} visual tokens"
            )
        layers = len(self.parts.layers)
        return self.method.schedule_on(layout, count, layers) if count else None

    def check_questions(
        self,
        ids: torch.Tensor,
        outline: Outline,
        rating: int | None,
        read_mask: Callable[[int], torch.Tensor | None],
    ) -> None:
        """Check that words that can rate them follow the images of each sample.

        Methods that read no attention need no such words.

        Args:
            ids: (B, L) int64 on the host; negative ones are no part of the prompt.
            outline: of the batch.
            rating: how many tokens at the end of a prompt may rate; None for all behind its images.
            read_mask: returns the prompt's mask, (B, L) bool on the host, for L; None if all tokens
                are real.
        Raises: PromptError: no such words follow.
        """
        pruned = any(
            schedule is not None and self.method.prunes(schedule) for schedule in outline.schedules
        )
        if "attention" not in self.method.signals or not pruned:
            return
        real = read_mask(ids.shape[1])
        shown = ids if real is None or real.shape != ids.shape else ids.masked_fill(~real, -1)
        marks = read_special_ids(self.parts.model, self.parts.config)
        check_questions(shown, outline.visual, marks, rating)

    def refuse_unknown_features(self, ids: torch.Tensor, names: list[str]) -> None:
        """Check that a prompt whose arguments may hold images under unknown names has no image.

        Args:
            ids: (B, L) int64 on the host.
            names: of the arguments.
        Raises: PromptError: the prompt has visual tokens, which would go unpruned.
        """
        family = self.parts.family
        placeholders = torch.tensor(family.placeholder_ids(self.parts.config))
        if bool(torch.isin(ids, placeholders).any()):
            raise PromptError(
                f"the prompt has visual tokens, and {', '.join(names)} may be their images, but "
                f"{family.name} takes images as {' or '.join(family.features)}; give them by that "
                "name."
            )
