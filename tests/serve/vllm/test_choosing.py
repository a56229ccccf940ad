"""Counts and choices are those of the library on one image. Needs no vLLM."""

from dataclasses import replace

import pytest
import torch

from sparsight import sparsify
from sparsight.counts.layout import grids_layout
from sparsight.errors import BudgetError, MethodError
from sparsight.serve.vllm.choosing import choose_kept, count_kept
from sparsight.serve.vllm.settings import OFFERED, build_method
from tests.support import tiny

LAYOUT = grids_layout([(6, 6)])


@pytest.mark.parametrize("name", OFFERED)
@pytest.mark.parametrize(
    ("retain", "count"),
    [(1, 1), (16, 16), (36, 36), (10**9, 36), (0.25, 9), (1.0, 36), (1 / 36, 1), (None, 36)],
)
def test_counts_are_known_from_the_size(name, retain, count):
    assert count_kept(build_method(name), LAYOUT, retain) == count


@pytest.mark.parametrize("name", OFFERED)
def test_a_fraction_of_less_than_one_token_is_refused(name):
    with pytest.raises(BudgetError, match="cannot be met"):
        count_kept(build_method(name), LAYOUT, 0.02)


@pytest.mark.parametrize("name", OFFERED)
@pytest.mark.parametrize("retain", [1, 7, 20])
def test_the_choice_is_that_of_the_library(name, retain):
    model = tiny.tiny_llava()
    inputs = tiny.batch([[2, "image", 7]]).inputs
    method = replace(build_method(name).for_space("tokens"), retain=retain)
    with torch.no_grad(), sparsify(model, method) as run:
        model(**inputs)
    ids = inputs["input_ids"][0]
    embeds = model.get_input_embeddings()
    behind = ids[ids.tolist().index(tiny.IMAGE) + 36 :]
    tokens = model.model.get_image_features(inputs["pixel_values"], return_dict=True)
    chosen = choose_kept(
        method,
        tokens.pooler_output[0].detach(),
        LAYOUT,
        count_kept(method, LAYOUT, retain),
        text=(embeds(behind).detach(), behind.tolist()),
    )
    assert chosen.tolist() == kept_by(run)


def kept_by(run):
    """Visual tokens that were left behind the last site of the only sample."""
    return run.trace.samples[0][-1].keep.tolist()


def test_a_layout_that_does_not_fit_is_refused():
    with pytest.raises(MethodError, match="35 tokens, and 36"):
        choose_kept(build_method("uniform"), torch.zeros(35, 8), LAYOUT, 4)
