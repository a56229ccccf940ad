"""The method for a budget that is given without one."""

import pytest
import torch

from sparsight import SparseVLM, sparsify
from sparsight.errors import BudgetError
from sparsight.methods import DEFAULT, default_method, methods
from tests.support import tiny


@pytest.mark.parametrize("retain", [192, 1, 0.5, 1.0])
def test_it_is_a_shipped_method_with_this_budget_alone(retain):
    made = default_method(retain)
    assert made == SparseVLM(retain=retain)
    assert type(made) is DEFAULT
    assert DEFAULT in methods()
    assert type(made.retain) is type(retain)


@pytest.mark.parametrize("retain", [0, -1, 1.5, True, None, "192"])
def test_a_budget_that_says_nothing(retain):
    with pytest.raises(BudgetError, match=r"give a count >= 1 or a fraction in \(0, 1\]"):
        default_method(retain)


def test_a_model_runs_with_it():
    model, inputs = tiny.tiny_llava(), tiny.batch([["image", 6]]).inputs
    with torch.no_grad(), sparsify(model, default_method(12)) as run:
        model(**inputs)
    assert 11 < run.stats.mean_visual_tokens <= 12
