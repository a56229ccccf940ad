"""Schedules of all methods against counts worked out slowly, with exact fractions."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.counts.layout import grids_layout
from sparsight.errors import BudgetError
from sparsight.methods import (
    TOPS,
    AutoPrune,
    Downscale,
    Pool,
    PyramidDrop,
    Random,
    SparseVLM,
    SparseVLMPlus,
    Uniform,
    VScan,
)
from tests.support import reference_counts

KINDS = (
    *(SparseVLM, SparseVLMPlus, PyramidDrop),
    *(VScan, TOPS, Random, Uniform, Pool, Downscale),
)
shares = st.sampled_from([1.0, 0.5, 1 / 3, 0.1, 1, 2, 10, 50]) | st.floats(0.01, 1)


@st.composite
def methods(draw, layers):
    """Draw a method with settings that move its counts."""
    kind = draw(st.sampled_from(KINDS))
    changes = {"retain": draw(shares)}
    if kind in (Pool, Downscale, VScan, TOPS):
        return kind(**changes)
    first = int("attention" in kind.signals)
    sites = st.sets(st.integers(first, layers - 1), min_size=1, max_size=4).map(sorted)
    changes["sites"] = draw(st.none() | sites.map(tuple))
    if kind is AutoPrune:
        changes["recycle"] = draw(st.booleans())
        changes["slope"] = draw(st.floats(0, 1) | st.just(0))
    if kind is PyramidDrop:
        changes["ratio"] = draw(st.none() | st.floats(0.01, 0.99))
    if kind is SparseVLM:
        changes["recycle"] = draw(st.booleans())
        changes["tau"] = draw(st.floats(0.01, 1))
        changes["theta"] = draw(st.floats(0.01, 1))
        changes["accounting"] = draw(st.sampled_from(["entering", "authors"]))
    if kind in (SparseVLM, AutoPrune) and changes["sites"] and draw(st.booleans()):
        count = len(changes["sites"])
        kept = draw(st.lists(st.integers(1, 20), min_size=count, max_size=count))
        changes["kept"] = tuple(sorted(kept, reverse=True))
    return kind(**changes)


@settings(max_examples=300)
@given(st.data(), st.integers(2, 40), st.integers(1, 12), st.integers(1, 3))
def test_schedules(data, layers, side, images):
    method, grids = data.draw(methods(layers)), ((side, side),) * images
    visual = side * side * images
    try:
        schedule = method.plan(grids_layout(list(grids)), layers)
    except BudgetError:
        return
    plan = reference_counts.plan(method, grids, layers)
    assert (schedule.sites, schedule.kept) == (plan.sites, plan.kept)
    assert schedule.recycled == plan.recycled
    assert schedule.entering == plan.entering(visual, layers)


@pytest.mark.parametrize(
    ("method", "counts", "entering"),
    [
        (PyramidDrop.paper(270), (288, 144, 72), 270),
        (PyramidDrop.paper(64), (109, 20, 3), 62.9),
        (PyramidDrop(192), (147, 36, 9), 192),
        (PyramidDrop(128), (241, 101, 43), 127.9),
        (VScan.paper(192), (288, 96), 192),
        (VScan.paper(128), (192, 64), 128),
        (VScan.paper(64), (96, 32), 64),
        (VScan(480), (576, 384), 480),
        (TOPS.paper(128), (256, 128, 32), 152),
        (TOPS.paper(64), (128, 64, 16), 76),
        (TOPS.paper(32), (64, 32, 8), 38),
        (TOPS(64), (109, 53, 13), 64),
    ],
    ids=str,
)
def test_published_counts_and_what_they_cost(method, counts, entering):
    plan = method.plan(grids_layout([(24, 24)]), 32)
    assert plan.counts == counts
    assert plan.mean() == pytest.approx(entering, abs=0.06)


@pytest.mark.parametrize(
    ("retain", "sites"),
    [(192, (8, 16, 24)), (191, (2, 8, 16)), (48, (2, 8, 16)), (47, (1, 8, 16)), (19, (1, 8, 16))],
)
def test_small_budgets_move_the_stages_of_pyramiddrop(retain, sites):
    plan = PyramidDrop(retain).plan(576, 32)
    assert plan.sites == sites
    assert retain - 1 < plan.mean() <= retain
    with pytest.raises(BudgetError, match="cannot be met"):
        PyramidDrop(18).plan(576, 32)


@pytest.mark.parametrize(
    ("retain", "counts"), [(192, (309, 204, 113)), (128, (312, 117, 39)), (64, (82, 32, 18))]
)
def test_the_reference_has_the_published_counts(retain, counts):
    assert reference_counts.plan(SparseVLM.paper(retain), ((24, 24),), 32).counts == counts
