"""Corners of models with other positions or masks: sliding ledgers, and what is left behind."""

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicSlidingWindowLayer

from sparsight import sparsify
from sparsight.errors import AttachError, UnsupportedError
from sparsight.families import families
from sparsight.methods import SparseVLM
from tests.engine.test_refusals import refuses
from tests.families.test_rotary import close, want
from tests.support import contract, tiny, tiny_rotary
from tests.support.caches import cached
from tests.support.tiny_rotary import MODELS, WINDOW

METHOD = SparseVLM(retain=0.5, positions="keep")
SLIDING = ("gemma3", "mistral", "qwen2_window")  # for Qwen2-VL see test_rotary.py


def one(kind, model, text=7, seed=0):
    return tiny_rotary.batch(
        kind, [[2, tiny_rotary.image(kind, 3, 5), text]], model.dtype, seed
    ).alone[0]


def word(token):
    return {"input_ids": torch.tensor([[token]])}


# ---- sliding ledgers


@pytest.mark.parametrize("kind", SLIDING)
def test_a_full_window_cannot_be_cropped(kind):
    model = tiny_rotary.model(kind)
    cache = DynamicCache(config=model.config)
    with sparsify(model, METHOD), torch.no_grad():
        model(**one(kind, model), **cached(cache))
        with refuses(UnsupportedError, f"sliding window of {WINDOW}", "prefill again"):
            cache.layers[-1 if kind != "gemma3" else -2].crop(-1)
        with refuses(AttachError, "damaged"):
            model(**word(20), **cached(cache))


@pytest.mark.parametrize("kind", SLIDING)
def test_a_window_that_is_not_full_is_cropped(kind):
    model = tiny_rotary.model(kind, sliding_window=200)
    inputs, cache = one(kind, model), DynamicCache(config=model.config)
    with sparsify(model, METHOD), torch.no_grad():
        model(**inputs, **cached(cache))
        lengths = [layer.keys.shape[-2] for layer in cache.layers]
        wanted = model(**word(21), **cached(cache)).logits
        cache.crop(-1)
        model(input_ids=torch.tensor([[30, 31]]), **cached(cache))
        cache.crop(-2)
        assert [layer.keys.shape[-2] for layer in cache.layers] == lengths
        assert {layer.get_seq_length() for layer in cache.layers} == {inputs["input_ids"].shape[1]}
        close(model(**word(21), **cached(cache)).logits, wanted, "after a crop")


@pytest.mark.parametrize("kind", SLIDING)
@pytest.mark.mode("sliding and hybrid dynamic caches")
def test_ledgers_follow_chosen_repeated_and_reordered_samples(kind):
    model = tiny_rotary.model(kind)
    batch = tiny_rotary.batch(kind, tiny_rotary.rows(kind), model.dtype)
    cache, wanted = DynamicCache(config=model.config), []
    with sparsify(model, METHOD) as run, torch.no_grad():
        places = contract.positions(batch.inputs["attention_mask"])
        model(**batch.inputs, position_ids=places, **cached(cache))
        length = batch.inputs["input_ids"].shape[1]
        wanted = [
            want(kind, METHOD, own, run, said=[20, 21], sample=b, length=length)[-2:]
            for b, own in enumerate(batch.alone)
        ]
        cache.batch_select_indices(torch.tensor([1, 0]))
        cache.batch_repeat_interleave(2)
        cache.reorder_cache(torch.tensor([3, 0, 1, 2]))
        rows, mask = [0, 1, 1, 0], batch.inputs["attention_mask"]
        mask, parts = mask[rows], []
        for token in (20, 21):
            mask = torch.cat([mask, mask.new_ones(4, 1)], dim=1)
            given = {
                "input_ids": torch.full((4, 1), token),
                "position_ids": contract.positions(mask)[:, -1:],
            }
            parts.append(model(**given, attention_mask=mask, **cached(cache)).logits)
    for row, sample in enumerate(rows):
        close(torch.cat(parts, dim=1)[row], wanted[sample], f"row {row}")


@pytest.mark.skipif(tiny.OLD, reason="transformers before 5.18 keep the length of a reset cache")
@pytest.mark.parametrize("kind", SLIDING)
def test_reset_makes_ordinary_layers(kind):
    model = tiny_rotary.model(kind)
    inputs, cache = one(kind, model), DynamicCache(config=model.config)
    kinds = [type(layer) for layer in cache.layers]
    with torch.no_grad():
        plain = model(**inputs).logits
        with sparsify(model, METHOD):
            model(**inputs, **cached(cache))
            cache.reset()
        assert [type(layer) for layer in cache.layers] == kinds
        assert DynamicSlidingWindowLayer in kinds
        assert torch.equal(model(**inputs, **cached(cache)).logits, plain)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("kind", SLIDING)
def test_costs_are_those_of_what_is_stored(kind, lazy):
    """A cache made without a config keeps everything, whatever the windows."""
    model = tiny_rotary.model(kind)
    inputs, cache = one(kind, model), DynamicCache() if lazy else DynamicCache(config=model.config)
    with sparsify(model, METHOD) as run, torch.no_grad():
        parts = [model(**inputs, **cached(cache)).logits[0]]
        stored = sum(
            x.numel() * x.element_size()
            for layer in cache.layers
            for x in (layer.keys, layer.values)
        )
        assert run.stats.kv_cache_bytes == stored
        parts += [model(**word(token), **cached(cache)).logits[0] for token in (20, 21)]
    close(
        torch.cat(parts),
        want(kind, METHOD, inputs, run, said=[20, 21]),
        "lazy" if lazy else "sliding",
    )


# ---- what is left behind


@pytest.mark.parametrize("kind", MODELS)
def test_the_block_leaves_no_trace(kind):
    model = tiny_rotary.model(kind, "eager")
    inputs = one(kind, model)

    def state():
        return [
            (
                set(vars(part)) - {"rope_deltas"},
                vars(part).get("config"),
                len(part._forward_pre_hooks),
                len(part._forward_hooks),
            )
            for part in model.modules()
        ]

    before = state()
    with torch.no_grad():
        plain = model(**inputs).logits
        with sparsify(model, METHOD):
            assert model(**inputs).logits.shape != plain.shape
        with pytest.raises(UnsupportedError), sparsify(model, METHOD):
            model(**inputs, labels=inputs["input_ids"])
        assert torch.equal(model(**inputs).logits, plain)
    assert state() == before


def test_families_have_names_of_their_own():
    names = [family.name for family in families()]
    classes = [name for family in families() for name in family.classes]
    assert len(set(names)) == len(names)
    assert len(set(classes)) == len(classes)
