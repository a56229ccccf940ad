"""Published settings: what there is, where it is refused, and what can be changed beside it."""

import re
from dataclasses import replace

import pytest
import torch
from transformers import LlavaConfig

from sparsight import SparseVLM, SparseVLMPlus, sparsify
from sparsight.cli.method import read_method
from sparsight.engine.support import describe, supports
from sparsight.errors import BudgetError, SettingError, UnsupportedError
from sparsight.methods import TOPS, AutoPrune, PyramidDrop, methods
from sparsight.methods.sparsevlm import PAPER_KEPT
from tests.support import tiny

OWN = (SparseVLM, SparseVLMPlus)
# layer means without recycled tokens: as the authors count, and of the tokens that enter a layer
WITHOUT = {
    192: (188.1875, 202.75),
    128: (123.9375, 140.8125),
    96: (93.0625, 110.25),
    64: (61.71875, 79.1875),
}


def deep(layers):
    """A model of that many decoder layers, as its config describes it."""
    config = LlavaConfig(architectures=["LlavaForConditionalGeneration"])
    config.text_config.num_hidden_layers = layers
    return describe(config)


@pytest.mark.parametrize("retain", [600, 500, 400])
def test_budgets_of_qwen_have_no_published_settings(retain):
    said = rf"paper\({retain}\) does not exist: .*Table 2.*use SparseVLM\(retain={retain}\)"
    with pytest.raises(BudgetError, match=said):
        SparseVLM.paper(retain)
    with pytest.raises(BudgetError, match="leave --paper out"):
        read_method("sparsevlm", str(retain), paper=True)
    plan = SparseVLM(retain=retain).plan(1311, 28)
    assert retain - 1 < plan.mean() <= retain


@pytest.mark.parametrize("method", OWN)
@pytest.mark.parametrize("layers", [18, 28, 40])
def test_published_counts_are_refused_at_another_depth(method, layers):
    own = method.paper(192)
    said = rf"{method.__name__}\.paper\(192\).* 32 layers, this model has {layers}.*retain=192\)"
    (refusal,) = supports(deep(layers), own)
    assert re.search(said, refusal.message)
    for ask in (own.list_sites, lambda count: own.plan(576, count)):
        with pytest.raises(UnsupportedError, match=said):
            ask(layers)
    assert supports(deep(32), own) == ()
    assert supports(deep(layers), method(retain=192)) == ()


OTHERS = {AutoPrune: 128, PyramidDrop: 270, TOPS: 64}


@pytest.mark.parametrize("method", OTHERS)
@pytest.mark.parametrize("layers", [18, 40])
def test_so_are_those_of_other_methods(method, layers):
    own = method.paper(OTHERS[method])
    with pytest.raises(UnsupportedError, match=f" 32 layers, this model has {layers}"):
        own.list_sites(layers)
    assert own.list_sites(32) == own.sites
    assert method(retain=OTHERS[method]).list_sites(layers)
    # the sites alone are nobody's counts
    shallow = replace(method(retain=OTHERS[method]), sites=(0, 3, 5) if method is TOPS else (3, 5))
    assert shallow.list_sites(layers) == shallow.sites


def test_they_are_refused_when_they_are_attached():
    model = tiny.tiny_llava(num_hidden_layers=18, dtype=torch.float32)
    changed = replace(SparseVLM.paper(64), recycle=False)
    for method in (SparseVLM.paper(64), changed, SparseVLMPlus.paper(64)):
        with (
            pytest.raises(UnsupportedError, match="this model has 18"),
            sparsify(model, method),
        ):
            pass


def test_counts_of_ones_own_fit_any_depth():
    own = SparseVLM(retain=100, sites=(4, 9, 20), kept=PAPER_KEPT[192])
    assert own.plan(576, 40).kept == PAPER_KEPT[192]
    # the authors' lists in a deeper model, under the mean that they have there
    lists = replace(SparseVLM.paper(192), retain=176)
    assert lists.plan(576, 40).mean("authors") == pytest.approx(176.2, abs=0.05)


@pytest.mark.parametrize("retain", WITHOUT)
def test_without_recycling_the_tokens_kept_stay_the_same(retain):
    method = read_method("sparsevlm:recycle=false", str(retain), paper=True)
    assert method == replace(SparseVLM.paper(retain), recycle=False)
    plan = method.plan(576, 32)
    assert plan.kept == plan.counts == SparseVLM.paper(retain).plan(576, 32).kept
    assert (plan.mean("authors"), plan.mean()) == WITHOUT[retain]


@pytest.mark.parametrize(
    ("text", "retain", "changes"),
    [
        ("sparsevlm:positions=keep", 128, {"positions": "keep"}),
        ("sparsevlm:tau=0.5:theta=0.2", 64, {"tau": 0.5, "theta": 0.2}),
        ("sparsevlm:aggregate=sum", 96, {"aggregate": "sum"}),
        ("sparsevlm:calibrate=true", 192, {"calibrate": True}),
        ("sparsevlm:level=rank", 192, {"level": "rank"}),
        ("sparsevlm:recycle=false", 194, {"recycle": False}),
    ],
)
def test_single_settings_change_beside_the_published_ones(text, retain, changes):
    wanted = replace(SparseVLM.paper(retain), **changes)
    assert read_method(text, str(retain), paper=True) == wanted


def test_plus_has_settings_beside_the_published_ones():
    method = read_method("sparsevlm-plus:heads=0.5", "64", paper=True)
    assert method == replace(SparseVLMPlus.paper(64), heads=0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sparsevlm:kept=300/200/110", "--paper takes kept of sparsevlm as it was published"),
        ("sparsevlm:sites=3/7/15", "leave sites=3/7/15 or --paper out"),
        (
            "sparsevlm:recycle=false:accounting=entering",
            "Beside it can be changed: aggregate, calibrate",
        ),
        ("sparsevlm:depth=1", "setting 'depth=1' is not known"),
        ("sparsevlm:tau=2", "tau=2 is out of range"),
        ("sparsevlm:recycle=false:calibrate=true", "recycle=False makes none"),
        ("fastv:rater=all", "leave rater=all or --paper out"),
        ("restore:base=fastv", "--paper takes base of restore as"),
        ("sparsevlm:recycle=false:recycle=true", "given twice"),
    ],
)
def test_other_settings_are_refused_beside_them(text, said):
    with pytest.raises(SettingError, match=re.escape(said)):
        read_method(text, "192", paper=True)


def test_no_bound_is_none():
    assert read_method("sparsevlm", "none", paper=True) == SparseVLM.paper_video()
    assert read_method("sparsevlm", " None ", paper=True) == SparseVLM.paper(None)
    assert read_method("sparsevlm:level=rank", "none", paper=False).retain is None
    for text, said in (("sparsevlm", "retain=None sets no bound"), ("random", "sets no bound")):
        with pytest.raises(BudgetError, match=said):
            read_method(text, "none", paper=False)
    with pytest.raises(BudgetError, match=r"paper\(None\) was not published"):
        read_method("fastv", "none", paper=True)


def test_what_can_be_changed_exists_and_leaves_the_counts():
    for method in methods():
        fields = set(method.__dataclass_fields__)
        assert method.beside_paper <= fields - {"retain", "sites", "kept", "accounting"}
        assert not method.beside_paper or hasattr(method, "paper")
