"""Ragged batches: neighbours, gaps and lost images change nothing in a sample."""

import pytest
import torch

from sparsight import SparseVLM, SparseVLMPlus, sparsify
from tests.support import tiny
from tests.support.cases import tiny_model


@pytest.fixture
def model():
    return tiny_model("sdpa")


@pytest.mark.parametrize("sites", [None, (1, 2, 3)])
@pytest.mark.parametrize("positions", ["keep", "renumber"])
def test_more_images_than_tokens_that_are_left(model, positions, sites):
    inputs = tiny.batch([[part for _ in range(16) for part in ("image", 2)] + [8]]).inputs
    with (
        torch.no_grad(),
        sparsify(model, SparseVLM(retain=100, positions=positions, sites=sites)) as run,
    ):
        assert model(**inputs).logits.isfinite().all()
        assert run.stats.visual_tokens_per_layer[0][-1] < 16 + 2


@pytest.mark.parametrize("method", [SparseVLM, SparseVLMPlus])
@pytest.mark.parametrize("positions", ["keep", "renumber"])
@pytest.mark.parametrize("seed", range(4))
def test_a_gap_in_the_mask_moves_nothing(model, method, positions, seed):
    """Mask tokens between image and question; the others keep their positions."""
    plain = tiny.batch([["image", 9]], seed=seed).inputs
    ids, cut = plain["input_ids"], plain["input_ids"].shape[1] - 6
    gap = torch.full((1, 12), 50)
    with_gap = {
        "input_ids": torch.cat([ids[:, :cut], gap, ids[:, cut:]], dim=1),
        "attention_mask": torch.cat(
            [torch.ones(1, cut), torch.zeros(1, 12), torch.ones(1, 6)], dim=1
        ).long(),
        "pixel_values": plain["pixel_values"],
    }
    with_gap["position_ids"] = (with_gap["attention_mask"].cumsum(1) - 1).clamp_min(0)
    found = []
    with torch.no_grad(), sparsify(model, method(retain=0.4, positions=positions)) as run:
        for inputs in (plain, with_gap):
            model(**inputs)
            found.append([site.keep.tolist() for site in run.trace.samples[0]])
    assert found[0] == found[1]


@pytest.mark.parametrize("pads", [1, 2, 3])
def test_one_token_that_rates_in_front_of_padding(model, pads):
    batch = tiny.batch([["image", 12], ["image", 12 - pads]], left=False)
    with torch.no_grad(), sparsify(model, SparseVLM(retain=0.5)) as run, run.rating(1):
        model(**batch.inputs)
        assert run.stats.raters == (1, 1)
        assert run.trace.raters[1].item() == batch.alone[1]["input_ids"].shape[1] - 1


def test_a_sample_that_is_not_pruned_is_not_rated(model):
    batch = tiny.batch([["image", 12], ["image", 3, "image", 12]])
    with torch.no_grad(), sparsify(model, SparseVLM(retain=50)) as run:
        model(**batch.inputs)
        together = run.stats
        for row, own in enumerate(batch.alone):
            model(**own)
            assert run.stats.raters[0] == together.raters[row]
    assert together.raters[0] == 0 < together.raters[1]
