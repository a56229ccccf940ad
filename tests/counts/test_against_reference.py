"""Schedules of all methods against counts worked out slowly, with exact fractions."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.counts.layout import grids_layout
from sparsight.errors import BudgetError
from sparsight.methods import (
    AutoPrune,
    Downscale,
    Pool,
    Random,
    SparseVLM,
    SparseVLMPlus,
    Uniform,
)
from tests.support import reference_counts

shares = st.sampled_from([1.0, 0.5, 1 / 3, 0.1, 1, 2, 10, 50]) | st.floats(0.01, 1)


@st.composite
def methods(draw, layers):
    """Draw a method with settings that move its counts."""
    kinds = [SparseVLM, SparseVLMPlus, AutoPrune, Random, Uniform, Pool, Downscale]
    kind = draw(st.sampled_from(kinds))
    changes = {"retain": draw(shares)}
    if kind in (Pool, Downscale):
        return kind(**changes)
    first = int("attention" in kind.signals)
    sites = st.sets(st.integers(first, layers - 1), min_size=1, max_size=4).map(sorted)
    changes["sites"] = draw(st.none() | sites.map(tuple))
    if kind is AutoPrune:
        changes["recycle"] = draw(st.booleans())
        changes["slope"] = draw(st.floats(0, 1) | st.just(0))
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
    ("retain", "counts"), [(192, (309, 204, 113)), (128, (312, 117, 39)), (64, (82, 32, 18))]
)
def test_the_reference_has_the_published_counts(retain, counts):
    assert reference_counts.plan(SparseVLM.paper(retain), ((24, 24),), 32).counts == counts
