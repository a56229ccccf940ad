"""What a budget may be, what is said of one that is none, and samples that have no more than it."""

import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from sparsight import SparseVLM, SparseVLMPlus
from sparsight.errors import BudgetError, SettingError
from sparsight.methods import Pool, Random, Uniform


@pytest.mark.parametrize(
    "method",
    [
        SparseVLM(retain=37),
        SparseVLM(retain=36, level="rank"),
        SparseVLM(retain=40, sites=(3,), kept=(38,)),
        SparseVLM.paper(64),
        SparseVLMPlus(retain=500),
        Uniform(retain=37),
        Pool(retain=37),
        Random(retain=37),
    ],
    ids=repr,
)
def test_a_sample_with_no_more_than_the_count_keeps_all(method):
    plan = method.plan(36, 32)
    assert plan.entering == (36,) * 32
    assert not any(plan.recycled)
    assert not plan.prunes


@pytest.mark.parametrize(
    "number", [np.int64(12), np.int32(12), np.uint8(12), np.int64(576), np.int64(1)], ids=repr
)
def test_counts_of_any_integer_type(number):
    method = SparseVLM(retain=number)
    assert method == SparseVLM(retain=int(number))
    assert type(method.retain) is int


@pytest.mark.parametrize(
    "number", [np.float32(0.5), np.float64(0.5), np.float16(0.5), Fraction(1, 2)], ids=repr
)
def test_fractions_of_any_real_type(number):
    method = SparseVLM(retain=number)
    assert method == SparseVLM(retain=0.5)
    assert type(method.retain) is float


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            12.0,
            "retain=12.0 is a float, and floats are fractions in (0, 1]; "
            "give the int 12 for a count",
        ),
        (np.float64(192), "give the int 192 for a count"),
        (1.5, "retain=1.5 keeps nothing meaningful; give a count >= 1 or a fraction in (0, 1]"),
        (0, "retain=0 keeps nothing meaningful"),
        (-3, "retain=-3 keeps nothing meaningful"),
        (float("nan"), "retain=nan keeps nothing meaningful"),
        (True, "retain=True keeps nothing meaningful"),
        (
            torch.tensor(12),
            "retain=tensor(12) is of type Tensor, which is no real number "
            "(a tensor or array of one element",
        ),
        (np.array(12), "is of type ndarray, which is no real number"),
        ("192", "retain='192' is of type str, which is no real number"),
        ([192], "retain=[192] is of type list, which is no real number; give a count"),
    ],
    ids=repr,
)
def test_what_is_wrong_with_a_budget_is_said(given, said):
    with pytest.raises(BudgetError, match=re.escape(said)):
        SparseVLM(retain=given)


@pytest.mark.parametrize("kept", [(100, 200, 300), (300, 200, 201)])
def test_counts_that_rise_are_refused(kept):
    with pytest.raises(SettingError, match="rises, and a site cannot bring tokens back"):
        SparseVLM(retain=192, sites=(3, 7, 16), kept=kept)


def test_counts_for_more_tokens_than_there_are_are_refused():
    with pytest.raises(
        BudgetError, match=re.escape("kept=(300, 200, 110) is made for more than the sample's 250")
    ):
        SparseVLM.paper(192).plan(250, 32)


def test_sequences_of_settings_become_tuples():
    method = SparseVLM(retain=192, sites=[3, np.int64(7)], kept=[300, 200])
    assert method == SparseVLM(retain=192, sites=(3, 7), kept=(300, 200))
    for sites in (3, "37", (3.0, 7.0), ("a",)):
        with pytest.raises(SettingError, match="is no sequence of whole numbers"):
            SparseVLM(sites=sites)
