"""Method, the base of every pruning method: settings that check themselves, counts known before the run, one choice.

A method is a frozen dataclass. It states only what is new: the engine finds the visual tokens,
calls `raters` once per prompt and `select` at each site for each group of samples alike, shortens
everything and clears up.
"""

import inspect
import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import torch

from sparsight.counts.budget import check_retain, resolve_retain, solve_counts
from sparsight.counts.layout import Layout, count_tokens
from sparsight.counts.schedule import Schedule, check_sites, fit_sites, scale_sites
from sparsight.errors import BudgetError, SettingError
from sparsight.methods.view import Selection, View

Positions = Literal["renumber", "keep"]

# what a view holds for methods that declare it: attention that raters pay, and how far they stand
# from visual tokens
SIGNALS = frozenset({"attention", "distance"})


@dataclass(frozen=True)
class Method(ABC):
    """Base of every method.

    Args:
        retain: what is kept, as a layer mean of visual tokens per sample: an int is a count, a
            float in (0, 1] the fraction. A sample with no more than the count keeps all. 1.0 keeps
            everything and leaves the model's computation untouched. None sets no bound, for methods
            that adapt their counts to the sample.
        sites: decoder layers on whose entry the sequence gets shorter; None scales SparseVLM's to
            the model's depth, and takes an earlier first one where the budget is too small for the
            layers before it. 0 is the input, before layer 0, and only for methods that read no
            attention.
        positions: "keep" gathers the original rotary positions, "renumber" counts the remaining
            tokens from 0.
    """

    name: ClassVar[str] = ""  # on the command line; "" makes one of the class's name
    summary: ClassVar[str] = ""  # what it does, in one line
    published: ClassVar[tuple[int, ...]] = ()  # budgets that `paper()` takes
    signals: ClassVar[frozenset[str]] = frozenset()  # of SIGNALS: what `select` reads of a view
    batched: ClassVar[bool] = True  # whether `select` takes samples alike as a group, (G, V, D)
    adaptive: ClassVar[bool] = False  # whether `select` may answer with fewer tokens than planned
    scales_images: ClassVar[bool] = False  # whether a plan may name a smaller grid for images

    retain: float | None = 1 / 3
    sites: tuple[int, ...] | None = None
    positions: Positions = "keep"

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        check_dataclass(type(self))
        if self.retain is not None:
            object.__setattr__(self, "retain", check_retain(self.retain))
        elif not self.adaptive:
            raise BudgetError(
                "retain=None sets no bound; give a count >= 1 or a fraction in (0, 1]."
            )
        check_choice("positions", self.positions, ("renumber", "keep"))
        if self.sites is not None:
            object.__setattr__(self, "sites", read_whole_numbers("sites", self.sites))

    def list_sites(self, layers: int) -> tuple[int, ...]:
        """Return every site that a sample may have in a decoder of `layers` layers.

        Raises: SettingError: sites outside the decoder.
        """
        if self.sites is None:
            first, *later = scale_sites(layers)
            return (*range(1, first + 1), *later)
        return check_sites(self.sites, layers, first=1 if "attention" in self.signals else 0)

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan how many visual tokens of a sample stay at each site, before anything runs.

        Args:
            layout: where the sample's V visual tokens lie, or V alone where that is not known.
            layers: decoder layers L.

        Raises:
            BudgetError: the budget cannot be met by this many tokens and layers.
            SettingError: sites outside the decoder.
            UnsupportedError: the method needs to know where the tokens lie, and V alone is given.
        """
        visual_tokens = count_tokens(layout)
        budget = resolve_retain(self.retain, visual_tokens)
        sites = self._choose_sites(budget, visual_tokens, layers)
        counts = solve_counts(budget, visual_tokens, sites, layers)
        keeps_all = self.retain is not None and min(counts) == visual_tokens
        exact = keeps_all or not self.adaptive
        return Schedule(visual_tokens, layers, sites, counts, (0,) * len(sites), exact=exact)

    def _choose_sites(self, budget: float, visual_tokens: int, layers: int) -> tuple[int, ...]:
        """Return the sites of one sample whose layer mean of visual tokens is to be `budget`."""
        if self.sites is None:
            return fit_sites(budget, visual_tokens, layers)
        return self.list_sites(layers)

    def raters(self, visual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Choose the text tokens whose attention rates the visual tokens; all of them unless a method knows better.

        Args:
            visual: (V, D) input embeddings of the sample's visual tokens.
            text: (T, D) input embeddings of the text after the last visual token.
        Returns: (T,) bool, at least one True.
        """
        del visual
        return torch.ones(len(text), dtype=torch.bool, device=text.device)

    @abstractmethod
    def select(self, view: View) -> Selection:
        """Choose the tokens that stay at one site: exactly `view.count` of each sample, recycled ones included.

        An adaptive method may answer with fewer, and gets groups of one. A method that is not
        `batched` gets one sample without the dimension G, and answers so.
        """


def check_dataclass(kind: type[Method]) -> None:
    """Check that a method's fields are fields, and no class attributes that its instances would hide.

    Raises: SettingError: a class sets a field's value without being a dataclass itself, or declares
    unknown signals.
    """
    unknown = sorted(kind.signals - SIGNALS)
    if unknown:
        raise SettingError(
            f"{kind.__name__} declares signals {unknown}; give some of {sorted(SIGNALS)}."
        )
    names = {field.name for field in fields(kind)}
    for cls in kind.__mro__:
        if issubclass(cls, Method) and "__dataclass_fields__" not in vars(cls):
            own = {
                name
                for name, kind in inspect.get_annotations(cls).items()
                if "ClassVar" not in str(kind)
            }
            hidden = sorted(names & vars(cls).keys() | own)
            if hidden:
                raise SettingError(
                    f"{cls.__name__} sets {', '.join(hidden)}, and its instances would not see it; decorate the "
                    "class with @dataclass(frozen=True)."
                )


def read_whole_numbers(field: str, values: object) -> tuple[int, ...]:
    """Return a setting that is a sequence of whole numbers as a tuple of ints.

    Raises: SettingError: it is no such sequence.
    """
    try:
        return tuple(operator.index(value) for value in values)  # type: ignore[attr-defined]
    except TypeError:
        raise SettingError(
            f"{field}={values!r} is no sequence of whole numbers; give a tuple such as (3, 7)."
        ) from None


def check_choice(field: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise SettingError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise SettingError(
            f"{field}={value!r} is not known; choose one of {', '.join(map(repr, allowed))}."
        )
