"""Odd combinations of model, prompt, budget, method and mode are right, or refused by name.

Drawn cases (support/odd_cases.py) of every kind of tiny model (support/odd_models.py), the same
ones in every run; each is run (support/odd_run.py) and judged (support/odd_judge.py). Were the
library to refuse everything, or the cases to ask for nothing, the counts of the last test would
show it.
"""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from sparsight import SparseVLM
from sparsight.engine.hooks import Engine
from sparsight.errors import UnsupportedError
from sparsight.sequence import masks
from tests.support import odd_models, tiny
from tests.support.breaks import sees_fillers, tells_the_physical_length
from tests.support.odd_cases import Budget, Case, cases
from tests.support.odd_judge import judge, layers_of

EXAMPLES = 28  # of each kind of model
HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]

pytestmark = pytest.mark.skipif(
    tiny.OLD, reason="transformers before 5.18 mixes up rows in cases that are drawn here"
)


@pytest.fixture(scope="module")
def tally():
    """What came of the cases of each kind of model."""
    return {}


@pytest.mark.parametrize("kind", odd_models.KINDS)
def test_odd_cases_are_right_or_refused(kind, tally):
    found = tally[kind] = Counter()
    layers = layers_of(odd_models.model(kind, *odd_models.variants(kind)[0]))

    @seed(odd_models.KINDS.index(kind))
    @settings(
        max_examples=EXAMPLES, phases=[Phase.generate, Phase.shrink], suppress_health_check=HEALTH
    )
    @given(cases(kind, layers))
    def holds(case):
        found[judge(case)] += 1

    holds()


def test_most_cases_are_served(tally, record_property):
    if set(tally) != set(odd_models.KINDS):
        pytest.skip("not all kinds have run")
    total = sum(found.total() for found in tally.values())
    right = sum(found["right"] for found in tally.values())
    untouched = sum(found["untouched"] for found in tally.values())
    refused = total - right - untouched
    record_property(
        "odd cases", f"{total}: {right} right, {untouched} untouched, {refused} refused"
    )
    assert total >= 1000
    assert 0.03 < refused / total < 0.3
    assert right > total / 2
    assert all(found["right"] for found in tally.values())


# ---- it bites

PADDED = Case(
    kind="internvl",
    kernel="sdpa",
    dtype=torch.float64,
    rows=[["image", 5], [2, "image", 2, "image", 4]],
    seed=0,
    left=True,
    extra=2,
    bare=False,
    numbered=True,
    mode="loop",
    said=(1, 3),
    method=SparseVLM,
    budget=Budget(0.3),
    settings={"sites": (2, 5), "positions": "renumber"},
)


def counts_from_one(monkeypatch):
    plain = masks.contiguous_positions
    monkeypatch.setattr(masks, "contiguous_positions", lambda *args: plain(*args) + (args[1] == 1))


def keeps_the_worst(monkeypatch):
    plain = SparseVLM.select

    def select(self, view):
        found = plain(self, view)
        return replace(found, keep=(-found.score).topk(len(found.keep)).indices.sort().values)

    monkeypatch.setattr(SparseVLM, "select", select)


def refuses(monkeypatch):
    def attach(self):
        raise UnsupportedError("not today.")

    monkeypatch.setattr(Engine, "attach", attach)


def fails(monkeypatch):
    def attach(self):
        raise IndexError("list index out of range")

    monkeypatch.setattr(Engine, "attach", attach)


def test_the_case_that_bites_is_right():
    assert judge(PADDED) == "right"


BREAKS = [sees_fillers, tells_the_physical_length, counts_from_one, keeps_the_worst, refuses, fails]


@pytest.mark.parametrize("breaks", BREAKS)
def test_a_broken_engine_fails(monkeypatch, breaks):
    breaks(monkeypatch)
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        judge(PADDED)


def test_an_attribute_left_behind_fails(monkeypatch):
    plain, model = Engine.detach, odd_models.model(PADDED.kind, PADDED.kernel, PADDED.dtype)
    monkeypatch.setattr(
        Engine, "detach", lambda self: (plain(self), setattr(self.base, "left_behind", 1))
    )
    with pytest.raises(AssertionError, match="leaves a trace"):
        judge(PADDED)
    del model.model.left_behind
