"""The cache of a pruned prompt belongs to its block, can be reset, and cropped to the prompt."""

import copy

import pytest
import torch
from transformers import DynamicCache

from sparsight import SparseVLM, sparsify
from sparsight.errors import AttachError, SparsightError, UnsupportedError
from tests.support import contract, dense, tiny
from tests.support.caches import cached
from tests.support.cases import tiny_model


@pytest.fixture
def model():
    return tiny_model("sdpa")


@pytest.fixture
def inputs():
    return tiny.batch([["image", 5]]).inputs


def prefill(model, inputs, **changes):
    with torch.no_grad():
        return model(**{**inputs, **changes}).logits


def pruned_cache(model, inputs):
    cache = DynamicCache(config=model.config)
    prefill(model, inputs, **cached(cache))
    return cache


def test_a_pruned_cache_outlives_no_block(model, inputs):
    with sparsify(model, SparseVLM()):
        cache = pruned_cache(model, inputs)
    step = {"input_ids": torch.tensor([[5]]), **cached(cache)}
    with pytest.raises(AttachError, match="has ended"):
        model(**step)
    with sparsify(model, SparseVLM()), pytest.raises(AttachError, match="has ended"):
        model(**step)


@pytest.mark.skipif(tiny.OLD, reason="transformers before 5.18 keep the length of a reset cache")
def test_reset_makes_an_ordinary_cache(model, inputs):
    plain = prefill(model, inputs)
    with sparsify(model, SparseVLM()):
        cache = pruned_cache(model, inputs)
        cache.reset()
        assert {type(layer).__name__ for layer in cache.layers} == {"DynamicLayer"}
        assert cache.get_seq_length() == 0
        assert not any("record" in vars(layer) or "skew" in vars(layer) for layer in cache.layers)
    assert torch.equal(prefill(model, inputs, **cached(cache)), plain)


def test_crop_drops_the_last_tokens(model, inputs):
    with sparsify(model, SparseVLM()), torch.no_grad():
        cache = pruned_cache(model, inputs)
        length, stored = cache.get_seq_length(), [layer.keys.shape[-2] for layer in cache.layers]
        model(input_ids=torch.tensor([[5, 6]]), **cached(cache))
        cache.crop(-2)
        assert [layer.keys.shape[-2] for layer in cache.layers] == stored
        assert {layer.get_seq_length() for layer in cache.layers} == {length}
        cache.crop(-1)
        assert [layer.keys.shape[-2] + 1 for layer in cache.layers] == stored
        assert {layer.get_seq_length() for layer in cache.layers} == {length - 1}


@pytest.mark.skipif(tiny.OLD, reason="transformers before 5.18 keep the length of a reset cache")
def test_a_crop_into_the_pruned_prompt_is_refused_and_never_used(model, inputs):
    step = {"input_ids": torch.tensor([[5]])}
    with sparsify(model, SparseVLM()), torch.no_grad():
        want = model(**step, **cached(pruned_cache(model, inputs))).logits
        cache = pruned_cache(model, inputs)
        with pytest.raises(UnsupportedError, match="reaches into the pruned prompt"):
            cache.crop(-10)
        try:
            got = model(**step, **cached(cache)).logits
        except SparsightError:
            got = want
        assert torch.equal(got, want)
        cache.reset()
        assert prefill(model, inputs, **cached(cache)).shape == prefill(model, inputs).shape


@pytest.mark.mode("`DynamicCache`")
def test_chosen_and_repeated_samples(model):
    method, batch = SparseVLM(retain=0.5), tiny.batch([["image", 4], ["image", 9], [3, "image", 2]])
    want = [
        dense.Reference(model, method).run(dense.turn(model, own), dense.Turn([9])).logits[-1]
        for own in batch.alone
    ]
    with sparsify(model, method), torch.no_grad():
        cache = DynamicCache()
        prefill(model, batch.inputs, **cached(cache))
        cache.batch_select_indices(torch.tensor([2, 0]))
        cache.batch_repeat_interleave(2)
        cache.reorder_cache(torch.tensor([3, 0, 1, 2]))
        rows = [0, 2, 2, 0]
        mask = torch.cat(
            [batch.inputs["attention_mask"][rows], torch.ones(4, 1, dtype=torch.int64)], dim=1
        )
        step = {"input_ids": torch.full((4, 1), 9), "attention_mask": mask}
        logits = model(**step, **cached(cache)).logits[:, -1]
    for row, sample in enumerate(rows):
        contract.close(logits[row], want[sample], f"row {row}")


def test_a_copy_goes_its_own_way(model, inputs):
    with sparsify(model, SparseVLM()), torch.no_grad():
        cache = pruned_cache(model, inputs)
        other = copy.deepcopy(cache)
        model(input_ids=torch.tensor([[5]]), **cached(cache))
        got = model(input_ids=torch.tensor([[9]]), **cached(other)).logits
        want = model(input_ids=torch.tensor([[9]]), **cached(pruned_cache(model, inputs))).logits
    assert torch.equal(got, want)
