"""Method, the base of every pruning method: settings, a plan of counts, and the choice of tokens.

A method is a frozen dataclass whose settings check themselves. It states only what is new: the
engine finds the visual tokens, calls `plan` before the run, `raters` once per prompt and `select`
at each site for each group of samples alike, shortens everything and clears up.
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
from sparsight.errors import BudgetError, SettingError, UnsupportedError
from sparsight.methods.calibration import Calibration
from sparsight.methods.encoder import EncoderNeed
from sparsight.methods.kinds import check_kinds
from sparsight.methods.view import Selection, View

Positions = Literal["renumber", "keep"]
# tokens as they enter the decoder, or features of the image encoder before the projector
Space = Literal["tokens", "features"]

# Signals of the decoder layer before a site: the attention that raters pay to visual tokens, and
# keys of visual tokens and of the text behind the images. Methods with them have no site 0.
OF_LAYER = frozenset({"attention", "decoder_keys"})
# Signals of the question: those, and input embeddings, token ids and hidden states of that text.
BY_TEXT = OF_LAYER | {"text", "text_states"}
# Fields of a view that are filled only for methods that declare them: those above, the distance of
# raters and visual tokens, where in their images the visual tokens lie, the decoder's final norm,
# what the image encoder computed, and how many visual tokens of the prompt each one stands for.
SIGNALS = BY_TEXT | {"distance", "layout", "norm", "encoder", "sizes"}


@dataclass(frozen=True)
class Method(ABC):
    """Base of every method.

    Class variables declare what a method does, before any instance exists:

    * name: on the command line; "" makes one of the class's name.
    * summary: what the method does, in one line.
    * source: paper, venue and arXiv number; "" for what was published nowhere.
    * published: budgets that `paper()` takes.
    * beside_paper: settings that can be changed on top of `paper()`, whose counts they leave alone.
    * signals: what `select` reads of a view, of SIGNALS; what is always there is not listed.
    * attention_of: whose attention it reads: of the layer "before" a site, or of the "site" itself,
      the layer on whose entry the sequence gets shorter, on the sequence before the site.
    * chooses_at_input: whether a method that reads attention chooses at the input too, site 0, by
      something else; attention is None there.
    * takes_any_layout: whether a method that reads the layout does without it where it is not known
      or no visual token is a patch.
    * batched: whether `select` takes a group of samples, (G, V, D); if not, one sample, (V, D).
    * adaptive: whether `select` may answer with fewer tokens than planned, by what it sees.
    * scales_images: whether a plan may name a smaller grid that images are scaled down to.
    * videos_only: whether it prunes videos alone, and refuses prompts without one.

    Args:
        retain: what is kept, as a layer mean of visual tokens per sample: an int is a count, a
            float in (0, 1] the fraction. A sample with no more tokens than the count keeps all. 1.0
            keeps everything and leaves the model's computation untouched. None sets no bound, for
            adaptive methods.
        sites: decoder layers on whose entry the sequence gets shorter. None takes SparseVLM's,
            scaled to the model's depth, with an earlier first one where the budget is too small for
            the layers before it. 0 is the input, before layer 0, and not for methods that read what
            belongs to the layer before.
        positions: "keep" leaves the remaining tokens at their rotary positions, "renumber" counts
            them from 0.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    published: ClassVar[tuple[int, ...]] = ()
    beside_paper: ClassVar[frozenset[str]] = frozenset()
    signals: ClassVar[frozenset[str]] = frozenset()
    attention_of: ClassVar[Literal["before", "site"]] = "before"
    chooses_at_input: ClassVar[bool] = False
    takes_any_layout: ClassVar[bool] = False
    batched: ClassVar[bool] = True
    adaptive: ClassVar[bool] = False
    scales_images: ClassVar[bool] = False
    videos_only: ClassVar[bool] = False

    retain: float | None = 1 / 3
    sites: tuple[int, ...] | None = None
    positions: Positions = "keep"

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        check_declarations(type(self))
        check_kinds(self)
        if self.retain is not None:
            object.__setattr__(self, "retain", check_retain(self.retain))
        elif not self.adaptive:
            raise BudgetError(
                "retain=None sets no bound; give a count >= 1 or a fraction in (0, 1]."
            )
        check_choice("positions", self.positions, ("renumber", "keep"))
        if self.sites is not None:
            object.__setattr__(self, "sites", read_whole_numbers("sites", self.sites))

    @property
    def encoder_needs(self) -> tuple[EncoderNeed, ...]:
        """What `select` reads of the image encoder, for methods that declare this signal."""
        return ()

    @property
    def features_of(self) -> tuple[str, int] | None:
        """The image encoder whose features are read, by model type and width; None for any."""
        return None

    @property
    def reads_question(self) -> bool:
        """Whether words must follow the images of each prompt; prompts without any are refused."""
        return bool(self.signals & BY_TEXT)

    @property
    def calibration(self) -> Calibration | None:
        """What is added to attention logits of a sample that is pruned; None for nothing."""
        return None

    @property
    def needs_grids(self) -> bool:
        """Whether it must be known in which row and column of its image each visual token lies."""
        return "layout" in self.signals and not self.takes_any_layout

    def for_space(self, space: Space) -> "Method":
        """Return the method for a model's family; itself, unless a setting was left to the family.

        Args: space: where the family's visual tokens are best compared with each other.
        """
        del space
        return self

    def list_sites(self, layers: int) -> tuple[int, ...]:
        """Return every site that a sample may have in a decoder of `layers` layers.

        Raises: SettingError: sites outside the decoder.
        """
        if self.sites is not None:
            return check_sites(self.sites, layers, first=self._first_site())
        # the first site of a sample depends on its budget and moves forward, to site 1 at most
        first, *later = scale_sites(layers)
        return (*range(1, first + 1), *later)

    def first_rated_site(self) -> int:
        """Return the first site whose tokens attention can rate: 0 if it is of the site itself."""
        return 0 if self.attention_of == "site" and not self.chooses_at_input else 1

    def _first_site(self) -> int:
        """Return the first site that a sample may have."""
        rated = bool(self.signals & OF_LAYER) and not self.chooses_at_input
        return self.first_rated_site() if rated else 0

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Return how many visual tokens of a sample stay at each site, before anything runs.

        Args:
            layout: where the sample's V visual tokens lie, or V alone where that is not known.
            layers: L, decoder layers.

        Raises:
            BudgetError: the budget cannot be met by this many tokens and layers.
            SettingError: sites outside the decoder.
            UnsupportedError: the method reads the layout, and V alone is given, or no token is a
                patch.
        """
        visual_tokens = count_tokens(layout)
        budget = resolve_retain(self.retain, visual_tokens)
        sites = self._choose_sites(budget, visual_tokens, layers)
        counts = solve_counts(budget, visual_tokens, sites, layers)
        keeps_all = self.retain is not None and min(counts) == visual_tokens
        exact = keeps_all or not self.adaptive
        plan = Schedule(visual_tokens, layers, sites, counts, (0,) * len(sites), exact=exact)
        if plan.prunes and self.needs_grids:
            require_grids(self, layout)
        return plan

    def _choose_sites(self, budget: float, visual_tokens: int, layers: int) -> tuple[int, ...]:
        """Return the sites of one sample whose layer mean of visual tokens is to be `budget`."""
        if self.sites is None:
            return fit_sites(budget, visual_tokens, layers)
        return self.list_sites(layers)

    def raters(self, visual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Return which text tokens rate the visual tokens by their attention.

        All of them do, unless a method overrides this.

        Args:
            visual: (V, D) input embeddings of the sample's visual tokens.
            text: (T, D) input embeddings of the text after the last visual token.
        Returns: (T,) bool, at least one True.
        """
        del visual
        return torch.ones(len(text), dtype=torch.bool, device=text.device)

    @abstractmethod
    def select(self, view: View) -> Selection:
        """Return the tokens that stay at one site.

        These are `view.count` of each sample, recycled ones included. An adaptive method may answer
        with fewer where `view.exact` is False, and then gets groups of one. A method that is not
        `batched` gets one sample without the dimension G, and answers without it.
        """


def require_grids(method: Method, layout: Layout | int | None) -> Layout:
    """Return the layout of a sample, checked to show where its visual tokens lie.

    Args: layout: of the sample; a number of visual tokens or None where it is not known.
    Raises: UnsupportedError: the layout is not known, or no token is a patch.
    """
    if isinstance(layout, Layout) and layout.grids:
        return layout
    reason = "they are not known for this model and prompt"
    if isinstance(layout, Layout):
        reason = (
            "this model's are no patches: they answer learned queries and lie nowhere in the image"
        )
    raise UnsupportedError(
        f"{type(method).__name__} needs the rows and columns of each image's visual tokens, and "
        f"{reason}; use Random instead."
    )


def check_declarations(kind: type[Method]) -> None:
    """Raise SettingError unless a method's class declares known signals and settings that act.

    A class that sets a field's value without being a dataclass itself does not change the field:
    its instances get the parent's default, and hide the class's value.
    """
    unknown = sorted(kind.signals - SIGNALS)
    if unknown:
        raise SettingError(
            f"{kind.__name__} declares signals {unknown}; give some of {sorted(SIGNALS)}."
        )
    check_choice("attention_of", kind.attention_of, ("before", "site"))
    inherited = {field.name for field in fields(kind)}
    for cls in kind.__mro__:
        if not issubclass(cls, Method) or "__dataclass_fields__" in vars(cls):
            continue
        annotated = {
            name
            for name, annotation in inspect.get_annotations(cls).items()
            if "ClassVar" not in str(annotation)
        }
        hidden = sorted((inherited & vars(cls).keys()) | annotated)
        if hidden:
            raise SettingError(
                f"{cls.__name__} sets {', '.join(hidden)}, and its instances would not see it; "
                "decorate the class with @dataclass(frozen=True)."
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
