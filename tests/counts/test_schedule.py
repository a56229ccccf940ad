"""Counts and costs: the published numbers, and what holds for every budget, depth and size."""

import itertools
import math
import re
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight import SparseVLM, SparseVLMPlus
from sparsight.counts.budget import solve_counts
from sparsight.counts.cost import DecoderShape, decoder_macs, kv_bytes
from sparsight.counts.recycling import count_recycled, split_count
from sparsight.counts.schedule import Schedule, check_sites, fit_sites, scale_sites
from sparsight.errors import BudgetError, SettingError
from sparsight.methods import Random

LLAVA_7B = DecoderShape(layers=32, width=4096, heads=32, kv_heads=32, head_dim=128, ffn_width=11008)

PAPER = {  # budget: counts that leave the sites, authors' mean, entering mean
    192: ((309, 204, 113), 192.03125, 206.5),
    128: ((312, 117, 39), 128.625, 145.40625),
    96: ((249, 55, 27), 96.9375, 114.09375),
    64: ((82, 32, 18), 64.8125, 82.25),
}
PLUS = {
    192: (192.4375, 206.75),
    128: (128.0, 144.125),
    96: (96.8125, 113.9375),
    64: (64.4375, 81.8125),
}
MACS = {576: 4.62, 192: 2.13, 128: 1.73, 64: 1.31}  # 1e12, with 118 text tokens


@pytest.mark.parametrize("retain", PAPER)
def test_published_counts(retain):
    counts, authors, entering = PAPER[retain]
    plan = SparseVLM.paper(retain).plan(576, 32)
    assert plan.counts == counts
    assert plan.mean("authors") == authors
    assert plan.mean() == plan.mean("entering") == entering
    assert plan.entering == (576,) * 3 + (counts[0],) * 4 + (counts[1],) * 9 + (counts[2],) * 16


@pytest.mark.parametrize("retain", PLUS)
def test_published_counts_of_plus(retain):
    plan = SparseVLMPlus.paper(retain).plan(576, 32)
    assert plan.recycled == (0, 0, 0)
    assert (plan.mean("authors"), plan.mean("entering")) == PLUS[retain]


def test_published_recycling_in_detail():
    steps = [
        (276, 83, 9),
        (109, 33, 4),
        (94, 29, 3),
        (273, 82, 9),
        (202, 61, 7),
        (81, 25, 3),
        (338, 102, 11),
    ]
    steps += [(201, 61, 7), (29, 9, 1), (510, 154, 16), (52, 16, 2), (15, 5, 1)]
    for dropped, pool, clusters in steps:
        assert count_recycled(dropped, 0.3, 0.1) == (pool, clusters)
    assert count_recycled(0, 0.3, 0.1) == (0, 0)
    assert count_recycled(1, 0.3, 0.1) == (1, 1)
    assert count_recycled(10, 1.0, 1.0) == (10, 10)


@pytest.mark.parametrize("retain", MACS)
def test_published_cost(retain):
    rows = (576,) * 32 if retain == 576 else SparseVLM.paper(retain).plan(576, 32).entering
    assert round(decoder_macs(LLAVA_7B, [118 + count for count in rows]) / 1e12, 2) == MACS[retain]


def test_key_value_bytes():
    assert kv_bytes(LLAVA_7B, [576] * 32, 2) == 576 * 2**19  # half a MiB a token
    visual = SparseVLM.paper(192).plan(576, 32).entering
    assert round(kv_bytes(LLAVA_7B, visual, 2) / 1e6, 1) == 108.3


def test_grouped_queries_cost_less():
    grouped = DecoderShape(layers=1, width=64, heads=4, kv_heads=2, head_dim=16, ffn_width=96)
    assert decoder_macs(grouped, [10]) == 10 * 64 * (2 * 64 + 2 * 32 + 3 * 96) + 2 * 100 * 64


def test_unpublished_budget_names_the_published_ones():
    for method, listed in ((SparseVLM, "192, 128, 96, 64"), (SparseVLMPlus, "192, 128, 96, 64")):
        with pytest.raises(
            BudgetError,
            match=re.escape(f"{method.__name__}.paper(100) was not published; choose {listed}"),
        ):
            method.paper(100)


# ---- every budget

depths = st.integers(2, 96)
tokens = st.integers(1, 3000)


@st.composite
def places(draw):
    layers = draw(depths)
    sites = draw(st.lists(st.integers(1, layers - 1), min_size=1, max_size=5, unique=True))
    return layers, tuple(sorted(sites))


@settings(max_examples=300, deadline=None)
@given(
    place=places(),
    visual=tokens,
    share=st.floats(0, 1),
    accounting=st.sampled_from(["entering", "authors"]),
)
def test_solved_counts(place, visual, share, accounting):
    layers, sites = place
    first = sites[0] - (accounting == "authors")
    least = (first * visual + layers - first) / layers
    wanted = least + share * (visual - least)
    counts = solve_counts(wanted, visual, sites, layers, accounting)
    got = Schedule(visual, layers, sites, counts, (0,) * len(sites)).mean(accounting)
    assert list(counts) == sorted(counts, reverse=True)
    assert 1 <= counts[-1] <= counts[0] <= visual
    assert got <= wanted + 1e-6
    full = all(count == visual for count in counts)
    bounds = [*(site - (accounting == "authors") for site in sites), layers]
    heaviest = max(b - a for a, b in itertools.pairwise(bounds))
    assert full or wanted - got < heaviest / layers + 1e-6, "a token more would still have fitted"


@pytest.mark.parametrize("first", [0, 1, 3])
def test_the_least_budget_as_a_share(first):
    """A share is rounded: 49 times 1 / 49 is a little less than 1."""
    for visual in range(1, 600):
        share = (first * visual + 8 - first) / 8 / visual
        assert Random(retain=share, sites=(first,)).plan(visual, 8).counts == (1,)


@settings(max_examples=150, deadline=None)
@given(place=places(), visual=st.integers(2, 3000), share=st.floats(0, 0.999))
def test_too_small_a_budget_names_the_least(place, visual, share):
    layers, sites = place
    least = (sites[0] * visual + layers - sites[0]) / layers
    wanted = share * (least - 1e-6)
    with pytest.raises(BudgetError, match=re.escape(f"the least is {least:.4g}")) as caught:
        solve_counts(wanted, visual, sites, layers)
    assert f"{wanted:g}" in str(caught.value)
    assert "earlier site" in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), entering=tokens, tau=st.floats(0.01, 1), theta=st.floats(0.01, 1))
def test_split_counts_add_up(data, entering, tau, theta):
    count = data.draw(st.integers(1, entering))
    kept, recycled = split_count(count, entering, tau, theta)
    assert kept + recycled == count
    assert kept >= 1
    assert recycled >= 0
    assert recycled <= entering - kept, "more clusters than dropped tokens"
    if count == entering:
        assert recycled == 0


@settings(max_examples=200, deadline=None)
@given(dropped=st.integers(0, 5000), tau=st.floats(0.001, 1), theta=st.floats(0.001, 1))
def test_recycled_counts_fit(dropped, tau, theta):
    pool, clusters = count_recycled(dropped, tau, theta)
    assert clusters <= pool <= dropped
    assert (clusters >= 1) == (dropped >= 1)


@settings(max_examples=150, deadline=None)
@given(
    place=places(),
    visual=tokens,
    retain=st.floats(0.01, 1),
    recycle=st.booleans(),
    authors=st.booleans(),
)
def test_schedules_of_methods(place, visual, retain, recycle, authors):
    layers, sites = place
    accounting = "authors" if authors else "entering"
    method = SparseVLM(retain=retain, sites=sites, recycle=recycle, accounting=accounting)
    try:
        plan = method.plan(visual, layers)
    except BudgetError as error:
        assert "the least is" in str(error)  # noqa: PT017
        return
    assert plan.mean(accounting) <= retain * visual + 1e-6
    assert all(k >= 1 and c >= 0 for k, c in zip(plan.kept, plan.recycled, strict=True))
    assert list(plan.counts) == sorted(plan.counts, reverse=True)
    now = visual
    for kept, recycled in zip(plan.kept, plan.recycled, strict=True):
        assert recycled <= now - kept
        assert recycle or recycled == 0
        now = kept + recycled


@pytest.mark.parametrize("retain", [1.0, 576])
@pytest.mark.parametrize("method", [SparseVLM, SparseVLMPlus])
def test_full_retention_keeps_every_token(method, retain):
    plan = method(retain=retain).plan(576, 32)
    assert (plan.kept, plan.recycled, plan.mean()) == ((576,) * 3, (0,) * 3, 576)


def test_the_published_cost_can_be_asked_for():
    for _, _, entering in PAPER.values():
        plan = SparseVLM(retain=math.ceil(entering), sites=(3, 7, 16)).plan(576, 32)
        assert entering - 1 < plan.mean() <= math.ceil(entering)


# ---- sites and settings


@pytest.mark.parametrize(
    ("wanted", "sites"),
    [
        (576, (3, 7, 15)),
        (116, (3, 7, 15)),
        (115, (2, 7, 15)),
        (77, (2, 7, 15)),
        (76, (1, 7, 15)),
        (32, (1, 7, 15)),
    ],
)
def test_small_budgets_move_the_first_site_forward(wanted, sites):
    assert fit_sites(wanted, 576, 30) == sites
    method = SparseVLM(retain=wanted)
    assert method.plan(576, 30).sites == sites
    assert set(sites) <= set(method.list_sites(30)) == {1, 2, 3, 7, 15}
    assert wanted - 1 < method.plan(576, 30).mean() <= wanted


def test_scaled_sites():
    assert scale_sites(32) == (3, 7, 16)
    assert scale_sites(40) == (4, 9, 20)
    assert scale_sites(28) == (3, 6, 14)
    assert scale_sites(24) == (2, 5, 12)
    assert scale_sites(8) == (1, 2, 4)
    assert scale_sites(2) == (1,)
    for layers in range(2, 200):
        sites = scale_sites(layers)
        assert check_sites(sites, layers) == sites
        assert len(sites) == 3 or layers < 8
    with pytest.raises(BudgetError, match="at least 2 layers"):
        scale_sites(1)


@pytest.mark.parametrize("sites", [(), (0,), (8,), (3, 3), (5, 2), (-1, 4), (1, 9)])
def test_sites_out_of_range(sites):
    with pytest.raises(SettingError, match=r"ascending layers within 1\.\.7"):
        check_sites(sites, 8)


@pytest.mark.parametrize(
    "retain", [0, -1, True, False, 1.5, 0.0, -0.1, math.nan, math.inf, "192", None, [64], 64 + 0j]
)
def test_meaningless_budgets(retain):
    for make in (SparseVLM, SparseVLMPlus):
        with pytest.raises(BudgetError, match=re.escape(f"retain={retain!r}")):
            make(retain=retain)


@pytest.mark.parametrize("retain", [1, 192, 10**6, 1e-9, 0.5, 1.0])
def test_meaningful_budgets(retain):
    assert SparseVLM(retain=retain).retain == retain


@pytest.mark.parametrize(
    "changes",
    [
        {"tau": 0.0},
        {"tau": 1.1},
        {"tau": math.nan},
        {"theta": -0.1},
        {"theta": 0},
        {"prune_scale": 0.0},
        {"prune_scale": 2},
        {"level": "fixed"},
        {"aggregate": "max"},
        {"accounting": "mine"},
        {"positions": "drop"},
        {"rank_tolerance": -1.0},
        {"rank_tolerance": math.nan},
        {"kept": (3, 2)},
        {"kept": (3, 2), "sites": (1,)},
        {"kept": (0,), "sites": (1,)},
        {"kept": (), "sites": ()},
    ],
)
def test_settings_out_of_range(changes):
    name = next(iter(changes))
    with pytest.raises(SettingError, match=name):
        SparseVLM(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"heads": 0},
        {"heads": 0.0},
        {"heads": 1.5},
        {"heads": True},
        {"heads": math.nan},
        {"heads": -1},
        {"kept": (3, 2)},
        {"accounting": "mine"},
        {"prior_floor": 0.0},
        {"prior_floor": 2.0},
    ],
)
def test_settings_of_plus_out_of_range(changes):
    with pytest.raises(SettingError, match=next(iter(changes))):
        SparseVLMPlus(**changes)


def test_plus_has_no_settings_of_sparsevlm_that_would_do_nothing():
    names = {field.name for field in fields(SparseVLMPlus)}
    assert not issubclass(SparseVLMPlus, SparseVLM)
    assert names == {
        *("retain", "sites", "positions", "accounting", "kept"),
        *("heads", "prior_floor"),
    }
    with pytest.raises(TypeError, match="recycle"):
        SparseVLMPlus(recycle=False)
