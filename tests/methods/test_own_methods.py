"""Own methods: a mistake in one is named, and never shows as a wrong answer."""

from dataclasses import dataclass, replace

import pytest
import torch

from sparsight import Method, SparseVLM, sparsify
from sparsight.errors import MethodError, SettingError
from sparsight.methods import Uniform
from sparsight.methods.parts.choosers import top_k
from sparsight.methods.view import Recycled, Selection
from tests.support import tiny
from tests.support.cases import tiny_model


@dataclass(frozen=True)
class First(Method):
    """Keeps the first tokens, of one sample at a time."""

    batched = False
    sites: tuple[int, ...] | None = (2,)

    def keep(self, view):
        return torch.arange(view.count)

    def select(self, view):
        return Selection(self.keep(view))


def answer(method):
    model = tiny_model("sdpa")
    with torch.no_grad(), sparsify(model, method) as run:
        model(**tiny.batch([["image", 6]]).inputs)
    return run


def test_a_right_method_runs():
    run = answer(First(retain=0.5))
    keep = run.trace.samples[0][0].keep
    assert keep.tolist() == list(range(len(keep)))
    assert run.stats.host_reads == answer(Twice(retain=0.5)).stats.host_reads


class Twice(First):
    """A subclass that changes no field needs no decorator."""


def test_fields_of_a_class_that_is_no_dataclass_are_refused():
    class Plain(First):
        sites = (3,)

    class Annotated(First):
        share: float = 0.5

    with pytest.raises(
        SettingError, match=r"Plain sets sites, and its instances.*@dataclass\(frozen=True\)"
    ):
        Plain(retain=0.5)
    with pytest.raises(SettingError, match="Annotated sets share"):
        Annotated(retain=0.5)
    assert dataclass(frozen=True)(Annotated)(retain=0.5).share == 0.5


def test_a_method_that_does_not_check_itself_is_checked_on_attach():
    @dataclass(frozen=True)
    class Careless(First):
        def __post_init__(self):
            pass

    with pytest.raises(ValueError, match="retain=-1"):
        sparsify(tiny_model("sdpa"), Careless(retain=-1))


ANSWERS = {
    "a tensor": (lambda view, keep: keep, r"answered a Tensor; return Selection\(keep\)"),
    "nothing": (lambda view, keep: None, "answered a NoneType"),
    "a list": (
        lambda view, keep: Selection(keep.tolist()),
        r"answered keep as a list; give int64 \(n,\)",
    ),
    "a mask": (lambda view, keep: Selection(keep > 0), "answered keep as a tensor of torch.bool"),
    "two dimensions": (lambda view, keep: Selection(keep[None]), r"of torch.int64 and shape \(1, "),
    "one index again and again": (
        lambda view, keep: Selection(keep * 0 + 5),
        r"does not ascend within 0\.\.35",
    ),
    "unsorted": (lambda view, keep: Selection(keep.flip(0)), "does not ascend"),
    "negative": (lambda view, keep: Selection(keep - 1), "does not ascend"),
    "beyond": (lambda view, keep: Selection(keep + 36), "does not ascend"),
    "one too few": (
        lambda view, keep: Selection(keep[1:]),
        r"answered \d+ of 36 visual tokens \(\d+ kept\); exactly",
    ),
    "none": (lambda view, keep: Selection(keep[:0]), "answered 0 of 36"),
    "a list of recycled": (
        lambda view, keep: Selection(keep, [1]),
        "answered recycled as a list; give Recycled",
    ),
    "a score that is none": (
        lambda view, keep: Selection(keep, None, "best"),
        "answered score as a str",
    ),
    "a score of others": (
        lambda view, keep: Selection(keep, None, torch.ones(3)),
        "one number for each visual token",
    ),
    "on another device": (
        lambda view, keep: Selection(keep.to("meta")),
        "answered keep on meta; give it on cpu",
    ),
}


def recycled(view, keep, **changes):
    values = view.hidden[keep[-2:]]
    own = Recycled(
        values, torch.tensor([30, 31]), torch.tensor([30, 31, 32]), torch.tensor([0, 1, 1])
    )
    return Selection(keep[:-2], replace(own, **changes))


RECYCLED = {
    "right": ({}, None),
    "a centre that is kept": ({"centres": torch.tensor([0, 31])}, "centres that are kept too"),
    "a centre twice": ({"centres": torch.tensor([31, 31])}, "are there twice"),
    "a centre outside": ({"centres": torch.tensor([31, 36])}, r"lie outside 0\.\.35"),
    "a label outside": ({"labels": torch.tensor([0, 1, 2])}, r"labels outside 0\.\.1"),
    "a pool outside": (
        {"pool": torch.tensor([30, 31, 999])},
        r"a pool of tokens that are kept.*outside 0\.\.35",
    ),
    "a pool that is kept": ({"pool": torch.tensor([0, 30, 31])}, "a pool of tokens that are kept"),
    "values that are no tensor": ({"values": [1]}, "recycled.values as a list"),
    "values that are no numbers": (
        {"values": torch.full((2, 64), torch.nan).double()},
        "that are not finite",
    ),
    "labels for others": ({"labels": torch.tensor([0, 1])}, "2 labels for a pool of 3"),
    "values for others": (
        {"values": torch.zeros(1, 64).double()},
        r"give one row for each centre, \(2, 64\)",
    ),
    "values of another dtype": (
        {"values": torch.zeros(2, 64)},
        "recycled.values as a tensor of torch.float32",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_wrong_selections_are_named(name):
    wrong, said = ANSWERS[name]

    @dataclass(frozen=True)
    class Wrong(First):
        def select(self, view):
            return wrong(view, self.keep(view))

    with pytest.raises(MethodError, match=f"^Wrong .*{said}"):
        answer(Wrong(retain=0.5))


@pytest.mark.parametrize("name", RECYCLED)
def test_wrong_recycled_tokens_are_named(name):
    changes, said = RECYCLED[name]

    @dataclass(frozen=True)
    class Recycles(First):
        def select(self, view):
            return recycled(view, self.keep(view), **changes)

    if said is None:
        answer(Recycles(retain=0.5))
    else:
        with pytest.raises(MethodError, match=said):
            answer(Recycles(retain=0.5))


PLANS = {
    "nothing": (lambda plan: None, "planned a NoneType; return a Schedule"),
    "another sample": (
        lambda plan: replace(plan, visual_tokens=35),
        "planned for 35 visual tokens and 8 layers; plan for 36 and 8",
    ),
    "another decoder": (lambda plan: replace(plan, layers=9), "36 visual tokens and 9 layers"),
    "an unlisted site": (lambda plan: replace(plan, sites=(5,)), r"planned sites \[5\]; have"),
    "upper bounds": (lambda plan: replace(plan, exact=False), "set adaptive = True"),
    "smaller images": (lambda plan: replace(plan, image_grid=(2, 2)), "set scales_images = True"),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_that_is_none_or_more_than_declared(name):
    change, said = PLANS[name]

    @dataclass(frozen=True)
    class Wrong(First):
        def plan(self, layout, layers):
            return change(super().plan(layout, layers))

    with pytest.raises(MethodError, match=f"^Wrong .*{said}"):
        answer(Wrong(retain=0.5))


@dataclass(frozen=True)
class AboveMean(First):
    """Keeps the tokens with more than the mean norm, whatever their number."""

    adaptive = True

    def select(self, view):
        assert not view.exact
        norm = view.hidden.norm(dim=-1)
        return Selection((norm > norm.mean()).nonzero().flatten()[: view.count])


def test_an_adaptive_method_may_keep_fewer_than_its_bound():
    plans = [AboveMean(retain=retain).plan(36, 8) for retain in (None, 0.5, 1.0, 36)]
    assert [(plan.exact, plan.prunes) for plan in plans] == [(False, True)] * 2 + [
        (True, False)
    ] * 2
    assert plans[0].counts == (36,)
    free, bounded = (answer(AboveMean(retain=retain)) for retain in (None, 0.3))
    assert 1 < free.stats.schedules[0].counts[0] < 36
    assert free.stats.schedules[0].exact
    assert bounded.stats.schedules[0].counts[0] <= plans[1].counts[0]
    with pytest.raises(ValueError, match="retain=None sets no bound"):
        First(retain=None)


@pytest.mark.parametrize(
    "chosen",
    [
        lambda text: torch.ones(len(text)),
        lambda text: torch.ones(len(text) + 1, dtype=torch.bool),
        lambda text: [True] * len(text),
        lambda text: torch.zeros(len(text), dtype=torch.bool),
    ],
    ids=["floats", "one more", "a list", "nobody"],
)
def test_wrong_raters_are_named(chosen):
    @dataclass(frozen=True)
    class Chooses(SparseVLM):
        def raters(self, visual, text):
            return chosen(text)

    with pytest.raises(MethodError, match="Chooses chose"):
        answer(Chooses(retain=0.5))


def test_answers_of_shipped_methods_cost_no_wait_on_other_devices(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "sparsight.methods.answer._check_values", lambda *given: seen.append(given[-1])
    )
    answer(Uniform(retain=0.5))
    answer(First(retain=0.5))
    assert seen[0] is torch.Tensor.cpu
    assert seen[1].__name__ == "to_host"


@dataclass(frozen=True)
class NormTopK(Method):
    """A whole method, for groups of samples alike."""

    sites: tuple[int, ...] | None = (2,)

    def select(self, view):
        return Selection(top_k(view.hidden.norm(dim=-1), view.keep_count, view.images))


@dataclass(frozen=True)
class OneByOne(NormTopK):
    """The same for methods that cannot take groups."""

    batched = False


def test_a_method_of_groups_and_one_of_samples_choose_alike():
    model, batch = (
        tiny_model("sdpa"),
        tiny.batch([["image", 6], ["image", 9], ["image", 3, "image", 4], [5]]),
    )
    found = []
    for method in (NormTopK, OneByOne):
        with torch.no_grad(), sparsify(model, method(retain=0.5)) as run:
            logits = model(**batch.inputs).logits
            keeps = [site.keep.tolist() for own in run.trace.samples for site in own]
            found.append((logits, keeps))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize("shape", [(1, 3), (3,), (2, 3, 1)])
def test_a_selection_of_too_few_or_many_rows_is_named(shape):
    @dataclass(frozen=True)
    class Wrong(NormTopK):
        def select(self, view):
            return Selection(torch.zeros(shape, dtype=torch.int64))

    model, batch = tiny_model("sdpa"), tiny.batch([["image", 6], ["image", 9]])
    with (
        torch.no_grad(),
        sparsify(model, Wrong(retain=0.5)),
        pytest.raises(MethodError, match=r"one row|one for each"),
    ):
        model(**batch.inputs)
