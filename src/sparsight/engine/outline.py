"""The outline of a batch: where its visual tokens are, and how many of them stay at each site.

It is read from token ids and image sizes on the host, before any image is encoded.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sparsight.counts.layout import Grid, Layout
from sparsight.counts.schedule import Schedule
from sparsight.engine.parts import Parts
from sparsight.errors import PromptError
from sparsight.methods.answer import check_plan
from sparsight.methods.method import Method
from sparsight.sequence.question import check_questions, read_special_ids

# the grid for which the prompt has placeholders, and the smaller grid that is encoded
Scale = tuple[Grid, Grid]


@dataclass(frozen=True)
class Encoding:
    """What is done inside the image encoder that the model does not do.

    Images have equal features where they are encoded alike.

    Args:
        kind: of the need that asks for it.
        counts: (B,) of each sample, to how many tokens each of its pictures or tiles is merged; ()
            where that depends on the pictures.
        method: that says which patches are left out; None where none are.
    """

    kind: str
    counts: tuple[tuple[int, ...], ...] = ()
    method: Hashable = None

    def fits(self, batch: "Encoding") -> bool:
        """Return whether pictures that were encoded so are encoded as a batch needs them.

        The batch may hold several copies of each sample, as beam search makes them.
        """
        copies = len(batch.counts) // max(1, len(self.counts))
        repeated = tuple(counts for counts in self.counts for _ in range(copies))
        return replace(self, counts=repeated) == batch


@dataclass(frozen=True)
class Outline:
    """What is known of a batch before it runs.

    Args:
        visual: (B, L) bool on the host, which tokens are visual.
        counts: (B,) visual tokens of each sample.
        layouts: (B,) where in its images each visual token of a sample lies; None where the family
            does not know, or the sample has no visual tokens.
        schedules: (B,) planned counts; None for samples without visual tokens.
        candidates: how many tokens at the end of each row are drafted candidates of assisted
            decoding, and so no part of the prompt.
        scale: how the images are scaled down; None if they stay as they are.
        encoding: what is done to the images inside the encoder; None for nothing.
    """

    visual: torch.Tensor
    counts: tuple[int, ...]
    layouts: tuple[Layout | None, ...]
    schedules: tuple[Schedule | None, ...]
    candidates: int = 0
    scale: Scale | None = None
    encoding: Encoding | None = None


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
        arguments: Mapping[str, Any],
        announced: Sequence[Layout | None] | None = None,
        candidates: int = 0,
    ) -> Outline:
        """Return the outline of a batch, from its token ids.

        Args:
            input_ids: (B, L) int64 on the host.
            arguments: of the base model by name, its images among them, sizes on the host.
            announced: (B,) layouts that a generate() call announced; None to read them from the
                arguments. generate() may encode images before the first pass, whose arguments then
                no longer tell how large the images are.
            candidates: how many tokens at the end of each row are no part of the prompt.
        Raises: BudgetError: a sample's budget cannot be met.
        """
        family, config = self.parts.family, self.parts.config
        visual = torch.isin(input_ids, torch.tensor(family.placeholder_ids(config)))
        layouts = announced
        if layouts is None and family.layouts is not None:
            layouts = family.layouts(config, input_ids, arguments)
        return self.plan(visual, layouts, candidates)

    def plan(
        self,
        visual: torch.Tensor,
        layouts: Sequence[Layout | None] | None,
        candidates: int = 0,
    ) -> Outline:
        """Return the outline of a batch, from a mask of its visual tokens.

        Args:
            visual: (B, L) bool on the host.
            layouts: (B,) layouts of the samples; None if no layout is known.
            candidates: how many tokens at the end of each row are no part of the prompt.
        Raises: BudgetError: a sample's budget cannot be met.
        """
        layouts = tuple(layouts or (None,) * len(visual))
        counts = tuple(visual.sum(dim=1).tolist())
        rows = list(zip(counts, layouts, strict=True))
        # samples with equal counts and layouts share a schedule
        schedules = {row: self._plan_sample(*row) for row in set(rows)}
        return Outline(visual, counts, layouts, tuple(schedules[row] for row in rows), candidates)

    def _plan_sample(self, count: int, layout: Layout | None) -> Schedule | None:
        """Return the schedule of a sample of `count` visual tokens; None if it has none."""
        if layout is not None and len(layout) != count:
            raise ValueError(
                f"the layout of {len(layout)} tokens is not that of {count} visual tokens"
            )
        if not count:
            return None
        layers = len(self.parts.layers)
        plan = self.method.plan(count if layout is None else layout, layers)
        return check_plan(plan, self.method, count, layers)

    def check_questions(
        self,
        ids: torch.Tensor,
        outline: Outline,
        rating: int | None,
        read_mask: Callable[[int], torch.Tensor | None],
    ) -> None:
        """Check that each sample has text behind its images that can rate them.

        Methods that read no question need no such text.

        Args:
            ids: (B, L) int64 on the host; negative ids are no part of the prompt.
            outline: of the batch.
            rating: how many tokens at the end of a prompt may rate; None for all behind its images.
            read_mask: takes L and returns the attention mask, (B, L) bool on the host; None if all
                tokens are real.
        Raises: PromptError: a sample has no such text.
        """
        pruned = any(schedule is not None and schedule.prunes for schedule in outline.schedules)
        if not self.method.reads_question or not pruned:
            return
        real = read_mask(ids.shape[1])
        if real is not None and real.shape == ids.shape:
            ids = ids.masked_fill(~real, -1)
        special_ids = read_special_ids(self.parts.model, self.parts.config)
        check_questions(ids, outline.visual, special_ids, rating)

    def refuse_unknown_features(self, ids: torch.Tensor, names: list[str]) -> None:
        """Check that a prompt has no visual tokens if its images come under unknown names.

        Args:
            ids: (B, L) int64 on the host.
            names: of arguments that may hold images.
        Raises: PromptError: the prompt has visual tokens, which would not be pruned.
        """
        family = self.parts.family
        placeholders = torch.tensor(family.placeholder_ids(self.parts.config))
        if bool(torch.isin(ids, placeholders).any()):
            raise PromptError(
                f"the prompt has visual tokens, and {', '.join(names)} may be their images, but "
                f"{family.name} takes images as {' or '.join(family.features)}; give them by that "
                "name."
            )
