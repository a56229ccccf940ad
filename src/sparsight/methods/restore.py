"""RESTORE: another method keeps half, the rest is merged, and attention is calibrated.

Source: "RESTORE", ICML 2026, arXiv 2606.01711. Written from the description of the method, not from
its code, which is under the GPL.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self

import torch

from sparsight.counts.layout import Layout, grids_layout
from sparsight.counts.published import take_published
from sparsight.counts.schedule import Schedule
from sparsight.errors import BudgetError, SettingError, SparsightError
from sparsight.methods.answer import check_selection
from sparsight.methods.calibration import Calibration
from sparsight.methods.divprune import DivPrune
from sparsight.methods.encoder import CHANGES, EncoderNeed
from sparsight.methods.method import Method, Space, check_choice
from sparsight.methods.parts.anchors import find_lower_median, group_by_anchors
from sparsight.methods.parts.bipartite import merge_by_size
from sparsight.methods.parts.tensors import take
from sparsight.methods.view import Recycled, Selection, View

PAPER_BUDGETS = {192: (192,), 128: (128,), 64: (64,)}
BASE = DivPrune()


class _OfBase:
    """A class variable that an instance of Restore has from its base.

    Args:
        read: takes the base and returns its value.
        plain: value of the class itself.
    """

    def __init__(self, read: Callable[[Method], object], plain: object) -> None:
        self.read, self.plain = read, plain

    def __get__(self, instance: "Restore | None", _: type) -> object:
        return self.plain if instance is None else self.read(instance.base)


def _of_base(read: Callable[[Method], object], plain: object) -> Any:
    """Return a class variable of type Any, as a type checker takes it for its value."""
    return _OfBase(read, plain)


def _add_sizes(base: Method) -> frozenset[str]:
    return base.signals | {"sizes"}


def _read_batched(base: Method) -> bool:
    return base.batched


def _read_videos_only(base: Method) -> bool:
    return base.videos_only


def _read_attention_of(base: Method) -> str:
    return base.attention_of


def _read_chooses_at_input(base: Method) -> bool:
    return base.chooses_at_input


@dataclass(frozen=True)
class Restore(Method):
    """RESTORE, an addition to another method.

    Source: the base keeps a share of the count. Of the others, those that are like many and unlike
        each other are anchors, every other one joins the anchor that it is most like, and a group
        becomes the mean of its tokens, at their lower median position. Every layer from the site on
        adds log(size) of each key to the attention logits; layer 0, where it is a site, adds
        log(N / K) of each visual key instead. In the prefill, pairs of tokens add log(c - D) too, D
        being the mean cosine of the rotary angles between them.
    Differs:
        With several images, a token joins an anchor of its own image where there is one.
        At a later site, tokens that were merged before may be kept, be anchors or be merged again,
        and then enter mean and size as often as they have members (the source tells nothing).
        Layers before the first site are left as they are, and so is a sample that keeps all.
        A pass that continues on the cache adds the sizes alone, as the source's decode steps do,
        however many tokens it has. An image behind a cache that holds tokens is refused, as D to
        these is not known.
        Where a model lets tokens see those behind them, D counts in both directions.

    Args:
        retain: it replaces that of the base; None takes the base's.
        sites: they replace those of the base; None takes the base's.
        positions: they replace those of the base. The source keeps positions; its figures fall by 6
            points where they are kept without `calibrate`.
        base: the method that chooses. It must plan exact counts, and neither merge tokens nor scale
            images itself: give SparseVLM(recycle=False), VisionZip(contextual=0.0).
        gamma: share of the count that the base keeps, in [0, 1]; 1.0 merges nothing, which the
            source advises for reading text.
        c: of the bias of distance, above 1.
        anchors: which tokens an anchor is to be unlike: denser ones, as the "paper" says, or those
            less dense, as the source's "code" has it and so, probably, its figures.
        calibrate: whether attention is calibrated.
    """

    name: ClassVar[str] = "restore"
    summary: ClassVar[str] = "another method keeps half, the rest is merged, attention calibrated"
    source: ClassVar[str] = "RESTORE, ICML 2026, arXiv 2606.01711"
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_BUDGETS)
    signals: ClassVar[frozenset[str]] = _of_base(_add_sizes, frozenset({"sizes"}))
    batched: ClassVar[bool] = _of_base(_read_batched, True)
    videos_only: ClassVar[bool] = _of_base(_read_videos_only, False)
    attention_of: ClassVar[Literal["before", "site"]] = _of_base(_read_attention_of, "before")
    chooses_at_input: ClassVar[bool] = _of_base(_read_chooses_at_input, False)

    retain: float | None = None
    base: Method = BASE
    gamma: float = 0.5
    c: float = 2.0
    anchors: Literal["code", "paper"] = "code"
    calibrate: bool = True

    def __post_init__(self) -> None:
        """Check the settings that need no model, and give the base what it has in common."""
        self._check_base()
        changes: dict[str, Any] = {"positions": self.positions}
        for field in ("retain", "sites"):
            if getattr(self, field) is not None:
                changes[field] = getattr(self, field)
        base = replace(self.base, **changes)
        if base.retain is None:
            raise BudgetError(
                "Restore needs a bound; give retain=, a count >= 1 or a fraction in (0, 1]."
            )
        for field, value in (("base", base), ("retain", base.retain), ("sites", base.sites)):
            object.__setattr__(self, field, value)
        super().__post_init__()
        check_choice("anchors", self.anchors, ("code", "paper"))
        if not 0.0 <= self.gamma <= 1.0:
            raise SettingError(f"gamma={self.gamma!r} is out of range; give a number in [0, 1].")
        if not 1.0 < self.c < math.inf:
            raise SettingError(f"c={self.c!r} is out of range; give a finite number above 1.")
        if self.gamma == 1.0 and not self.calibrate:
            raise SettingError(
                "gamma=1.0 merges nothing and calibrate=False calibrates nothing; use the base "
                "alone, or change one of the two."
            )
        self._try_plan()

    def _check_base(self) -> None:
        """Raise SettingError unless the base is a method that can be one."""
        base, name = self.base, type(self.base).__name__
        if not isinstance(base, Method):
            raise SettingError(f"base={base!r} is not a method; give an instance, as DivPrune().")
        encodes = any(need.kind in CHANGES for need in base.encoder_needs)
        if base.scales_images or encodes or base.calibration is not None:
            reason = "changes the image encoder" if encodes else "calibrates attention"
            reason = "scales images" if base.scales_images else reason
            raise SettingError(
                f"Restore cannot build on {name}, which {reason} itself; give another base, such "
                "as DivPrune()."
            )

    def _try_plan(self) -> None:
        """Check the base's plan for a sample, so that most mistakes show before a model is run."""
        try:
            plan = self.base.plan(grids_layout([(24, 24)]), 32)
        except SparsightError:  # this sample is none that the settings are made for
            return
        self._check_plan(plan)

    def _check_plan(self, plan: Schedule) -> None:
        """Raise SettingError unless the base plans exact counts and merges nothing."""
        name = type(self.base).__name__
        if any(plan.recycled):
            raise SettingError(
                f"Restore merges what its base does not keep, and {name} merges tokens itself; "
                "switch that off, as SparseVLM(recycle=False) or VisionZip(contextual=0.0) do, or "
                "give another base."
            )
        if not plan.exact:
            raise SettingError(
                f"Restore needs exact counts, and {name} plans upper bounds; give a base without "
                "them, as SparseVLM(level='schedule', recycle=False)."
            )

    @classmethod
    def paper(cls, retain: int, base: Method = BASE) -> Self:
        """Return the settings of the paper's tables, which are the same for every base.

        Raises: BudgetError: no figures were published for the budget.
        """
        take_published(cls.__name__, PAPER_BUDGETS, retain)
        return cls(retain=retain, base=base)

    def for_space(self, space: Space) -> "Restore":
        """Return the method with a base that has the space of a family, unless one was given."""
        return replace(self, base=self.base.for_space(space))

    @property
    def encoder_needs(self) -> tuple[EncoderNeed, ...]:
        """What the base reads of the image encoder."""
        return self.base.encoder_needs

    @property
    def features_of(self) -> tuple[str, int] | None:
        """The image encoder whose features the base reads."""
        return self.base.features_of

    @property
    def reads_question(self) -> bool:
        """Whether the base needs words behind the images."""
        return self.base.reads_question

    @property
    def calibration(self) -> Calibration | None:
        """Sizes and distance; the whole count's share in layer 0."""
        return Calibration(distance=self.c, level_first=True) if self.calibrate else None

    def list_sites(self, layers: int) -> tuple[int, ...]:
        """Return the sites of the base."""
        return self.base.list_sites(layers)

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan the base's counts, and of each the share that it keeps.

        Raises: SettingError: the base merges tokens itself or plans upper bounds.
        """
        plan = self.base.plan(layout, layers)
        if not plan.prunes:
            return plan
        self._check_plan(plan)
        steps = pairwise((plan.visual_tokens, *plan.counts))
        kept = tuple(count if count == before else self._share(count) for before, count in steps)
        rest = tuple(count - own for count, own in zip(plan.counts, kept, strict=True))
        return replace(plan, kept=kept, recycled=rest)

    def _share(self, count: int) -> int:
        """Return how many of `count` tokens the base keeps, at least 1 unless gamma is 0."""
        return max(1, int(count * self.gamma + 1e-9)) if self.gamma else 0

    def raters(self, visual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Return the raters of the base."""
        return self.base.raters(visual, text)

    def select(self, view: View) -> Selection:
        """Keep what the base keeps, and fold the others into anchors."""
        chosen = self._choose(view)
        count = view.count - view.keep_count
        if not count:
            return chosen
        groups = group_by_anchors(view.hidden, chosen.keep, count, self.anchors, view.images)
        pool, labels = groups.pool, groups.labels
        sizes = torch.ones_like(view.images) if view.sizes is None else view.sizes
        values = merge_by_size(take(view.hidden, pool), sizes.gather(-1, pool), labels, count)
        centres = find_lower_median(labels, pool, count)
        return replace(chosen, recycled=Recycled(values, centres, pool, labels))

    def _choose(self, view: View) -> Selection:
        """Return what the base keeps, checked; nothing where it is to keep nothing."""
        if not view.keep_count:
            return Selection(view.images[..., :0])
        sizes = view.sizes if "sizes" in self.base.signals else None
        own = replace(view, count=view.keep_count, sizes=sizes)
        # an own method's values are read on the host
        chosen = check_selection(self.base.select(own), self.base, own, torch.Tensor.cpu)
        if chosen.recycled is not None:
            raise SettingError(
                f"Restore merges what its base does not keep, and {type(self.base).__name__} "
                "recycled tokens that it had not planned; give another base."
            )
        return chosen
