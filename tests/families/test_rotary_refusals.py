"""What models with other positions or masks refuse, by name."""

import pytest
import torch
from torch import nn
from transformers import DynamicCache

from sparsight import sparsify
from sparsight.errors import UnsupportedError
from sparsight.families.refused import REFUSED
from sparsight.methods import Downscale, SparseVLM, SparseVLMPlus
from tests.engine.test_refusals import refuses
from tests.families.test_rotary_edges import SLIDING, one
from tests.support import tiny, tiny_rotary
from tests.support.caches import cached
from tests.support.tiny_rotary import MODELS, QWEN

METHOD = SparseVLM(retain=0.5, positions="keep")


@pytest.mark.parametrize("kind", MODELS)
def test_renumbering_is_refused(kind):
    model = tiny_rotary.model(kind, "eager")
    with refuses(UnsupportedError, "positions='renumber'", "use positions='keep'"):
        sparsify(model, SparseVLM(positions="renumber"))


@pytest.mark.parametrize("kind", MODELS)
def test_scaling_images_is_refused(kind):
    model = tiny_rotary.model(kind, "eager")
    for method in (Downscale(), Downscale(positions="keep")):
        with refuses(UnsupportedError, "Downscale is not supported for", "use Pool or Uniform"):
            sparsify(model, method)


@pytest.mark.parametrize("kind", QWEN)
def test_a_prior_of_one_distance_is_refused(kind):
    with refuses(UnsupportedError, "SparseVLMPlus", "one distance between tokens", "use SparseVLM"):
        sparsify(tiny_rotary.model(kind), SparseVLMPlus())


@pytest.mark.parametrize("kind", SLIDING)
def test_a_prior_of_one_distance_is_there(kind):
    model = tiny_rotary.model(kind)
    inputs = one(kind, model)
    with sparsify(model, SparseVLMPlus(retain=0.5)) as run, torch.no_grad():
        assert model(**inputs).logits.isfinite().all()
    assert run.stats.visual_tokens_per_layer[0][-1] < run.stats.visual_tokens[0]


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_are_known_not_to_work(name):
    with refuses(UnsupportedError, name, REFUSED[name]):
        sparsify(type(name, (nn.Module,), {})(), METHOD)


@pytest.mark.parametrize("kind", ["linear_attention", "chunked_attention"])
def test_layers_of_other_kinds(kind):
    model = tiny.tiny_llava(kind="qwen2")
    model.model.language_model.config.layer_types[2] = kind
    with refuses(UnsupportedError, kind, "Qwen2Model", "full attention and sliding windows"):
        sparsify(model, METHOD)


@pytest.mark.parametrize("kind", ["gemma3", "paligemma"])
def test_masks_that_are_made_already(kind):
    model = tiny_rotary.model(kind)
    inputs = one(kind, model)
    length = inputs["input_ids"].shape[1]
    square = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    with sparsify(model, METHOD):
        with refuses(UnsupportedError, "4 dimensions", "2-D"):
            model(**{**inputs, "attention_mask": square})
        if kind == "gemma3":
            with refuses(UnsupportedError, "dict", "2-D"):
                model(
                    **{
                        **inputs,
                        "attention_mask": {"full_attention": square, "sliding_attention": square},
                    }
                )


@pytest.mark.parametrize("kind", ["gemma3", "paligemma", "qwen2", "qwen3"])
def test_packed_prompts(kind):
    model = tiny_rotary.model(kind)
    inputs = {name: part for name, part in one(kind, model).items() if name != "attention_mask"}
    length = inputs["input_ids"].shape[1]
    places = torch.cat([torch.arange(length - 3), torch.arange(3)])[None]
    places = places.expand(4, 1, -1) if kind in QWEN else places
    with sparsify(model, METHOD), refuses(UnsupportedError, "packed"):
        model(**inputs, position_ids=places, use_cache=False)


@pytest.mark.parametrize("kind", SLIDING)
def test_a_cache_that_records_its_past(kind):
    model = tiny_rotary.model(kind)
    inputs, cache = one(kind, model), DynamicCache(config=model.config)
    sliding = [layer for layer in cache.layers if layer.is_sliding]
    with sparsify(model, METHOD), torch.no_grad():
        model(**inputs, **cached(cache))
        with refuses(UnsupportedError, "candidate tokens"):
            sliding[-1].activate_past_recording()
        if tiny.OLD:
            return
        cache = DynamicCache(config=model.config)
        next(
            layer for layer in reversed(cache.layers) if layer.is_sliding
        ).activate_past_recording()
        with refuses(UnsupportedError, "records its past"):
            model(**inputs, **cached(cache))
