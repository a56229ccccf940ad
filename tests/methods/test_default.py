"""The method for a budget that is given without one."""

import numpy as np
import pytest
import torch

from sparsight import Sparsight, sparsify
from sparsight.errors import BudgetError, UnsupportedError
from sparsight.methods import DEFAULT, default_method, methods
from tests.support import tiny


@pytest.mark.parametrize("retain", [192, 1, 0.5, 1.0])
def test_it_is_a_shipped_method_with_this_budget_alone(retain):
    made = default_method(retain)
    assert made == Sparsight(retain=retain)
    assert type(made) is DEFAULT
    assert DEFAULT in methods()
    assert type(made.retain) is type(retain)


@pytest.mark.parametrize("retain", [0, -1, 1.5, True, None, "192"])
def test_a_budget_that_says_nothing(retain):
    with pytest.raises(BudgetError, match=r"give a count >= 1 or a fraction in \(0, 1\]"):
        default_method(retain)


@pytest.mark.parametrize("retain", [12, np.int64(12), 1 / 3])
def test_sparsify_takes_a_budget_alone(retain):
    model, inputs = tiny.tiny_llava(), tiny.batch([["image", 6]]).inputs
    with torch.no_grad(), sparsify(model, retain) as run:
        model(**inputs)
    assert run.method == Sparsight(retain=retain, space="tokens")
    assert 11 < run.stats.mean_visual_tokens <= 12


@pytest.mark.parametrize(
    ("given", "error"),
    [(0, BudgetError), (1.5, BudgetError), (True, UnsupportedError), ("192", UnsupportedError)],
)
def test_sparsify_refuses_what_is_neither_method_nor_budget(given, error):
    with pytest.raises(error):
        sparsify(tiny.tiny_llava(), given)
