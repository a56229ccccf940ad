"""Names that transformers changed: both spellings work, and a name that is gone is refused on attach."""

import warnings

import pytest
import torch
import transformers
from transformers import DynamicCache, GenerationConfig, GenerationMixin
from transformers.models.llama import modeling_llama
from transformers.models.llava import modeling_llava

from sparsight import SparseVLM, compat, sparsify
from sparsight import beside as beside_module
from sparsight.errors import PromptError, UnsupportedError
from sparsight.methods import Uniform
from tests import tiny
from tests.caches import NAME, cached

SPELLINGS = ("cache", "past_key_values")


@pytest.fixture
def model():
    return tiny.tiny_llava()


def inputs():
    return tiny.batch([["image", 6]]).inputs


def renamed(function, old, new):
    """A function that takes an argument by another name, as a release to come may do."""
    names = function.__signature__ if hasattr(function, "__signature__") else compat._signature(function)
    parameters = [p.replace(name=new) if p.name == old else p for p in names.parameters.values()]

    def other(*args, **kwargs):
        return function(*args, **kwargs)

    other.__signature__ = names.replace(parameters=parameters)
    return other


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("method", [SparseVLM(retain=0.5, positions="renumber"), Uniform(retain=0.5)], ids=repr)
def test_a_cache_by_either_name(model, method, spelling):
    step = torch.tensor([[5]])
    with torch.no_grad(), sparsify(model, method), warnings.catch_warnings():
        warnings.simplefilter("error")
        own = DynamicCache()
        model(**inputs(), **cached(own))
        wanted = model(input_ids=step, **cached(own)).logits
        cache = DynamicCache()
        model(**inputs(), **{spelling: cache})
        assert torch.equal(model(input_ids=step, **{spelling: cache}).logits, wanted)
        cache = DynamicCache()
        model.model(**inputs(), **{spelling: cache})
        assert torch.equal(model.lm_head(model.model(input_ids=step, **{spelling: cache}).last_hidden_state), wanted)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_generate_goes_on_with_a_cache_by_either_name(model, spelling):
    given = {**inputs(), "max_new_tokens": 3, "min_new_tokens": 3, "return_dict_in_generate": True}
    with sparsify(model, SparseVLM(retain=0.5)), warnings.catch_warnings():
        warnings.simplefilter("error")
        first = model.generate(**given)
        longer = torch.cat([first.sequences, torch.tensor([[7, 8]])], dim=1)
        later = {"input_ids": longer, "attention_mask": torch.ones_like(longer), "max_new_tokens": 3}
        turns = []
        for name in (spelling, NAME):
            cache = compat.output_cache(model.generate(**given))
            turns.append(model.generate(**later, **{name: cache}))
        assert torch.equal(*turns)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_cache_that_cannot_be_pruned_is_refused_by_either_name(model, spelling):
    static = transformers.StaticCache(config=model.config, max_cache_len=64)
    with sparsify(model, Uniform(retain=0.5)), pytest.raises(UnsupportedError, match="StaticLayer cannot be pruned"):
        model(**inputs(), **{spelling: static})


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (modeling_llama.LlamaDecoderLayer, NAME),
        (modeling_llama.LlamaDecoderLayer, "position_embeddings"),
        (modeling_llama.LlamaDecoderLayer, "hidden_states"),
        (modeling_llama.LlamaModel, NAME),
        (modeling_llama.LlamaModel, "inputs_embeds"),
        (modeling_llava.LlavaModel, NAME),
        (modeling_llava.LlavaModel, "attention_mask"),
    ],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_a_renamed_argument_is_refused_by_name(model, monkeypatch, kind, name):
    monkeypatch.setattr(kind, "forward", renamed(kind.forward, name, "something_new"))
    with pytest.raises(UnsupportedError, match=rf"{kind.__name__}.forward takes no .*{name}"):
        sparsify(model, Uniform(retain=0.5))
    assert not model.model._forward_pre_hooks


def test_a_base_model_that_takes_images_by_a_new_name_is_refused(model, monkeypatch):
    forward = modeling_llava.LlavaModel.forward
    for name in ("pixel_values", "mm_encoder_outputs"):
        forward = renamed(forward, name, f"new_{name}")
    monkeypatch.setattr(modeling_llava.LlavaModel, "forward", forward)
    with pytest.raises(UnsupportedError, match=r"LlavaModel\.forward takes no images as pixel_values"):
        sparsify(model, Uniform(retain=0.5))


def test_images_by_a_name_that_nobody_knows_are_refused(model):
    given = inputs()
    pixels = given.pop("pixel_values")
    with sparsify(model, Uniform(retain=0.5)), pytest.raises(PromptError, match="pixel_values_2 may be their images"):
        model(**given, pixel_values_2=pixels)


def test_a_cache_that_reaches_layers_unseen_is_refused(model, monkeypatch):
    monkeypatch.setattr(beside_module, "take_cache", lambda _: None)
    with sparsify(model, Uniform(retain=0.5)), pytest.raises(UnsupportedError, match="not handed under a known name"):
        model(**inputs(), use_cache=True)


def test_an_option_of_generate_that_is_gone_is_refused(model, monkeypatch):
    class Config(GenerationConfig):
        def __init__(self):
            super().__init__()
            del self.penalty_alpha

    monkeypatch.setattr("sparsight.guard.GenerationConfig", Config)
    with pytest.raises(UnsupportedError, match="knows no penalty_alpha for generate"):
        sparsify(model, Uniform(retain=0.5))


def test_a_door_to_continuous_batching_that_is_gone_is_refused(model, monkeypatch):
    owner = next(kind for kind in GenerationMixin.__mro__ if "generate_batch" in vars(kind))
    monkeypatch.delattr(owner, "generate_batch")
    with pytest.raises(UnsupportedError, match=r"knows no generate_batch\(\)"):
        sparsify(model, Uniform(retain=0.5))


def test_an_untested_release_is_told_once(model, monkeypatch):
    newer = f"{compat.TESTED[0]}.{compat.TESTED[1] + 1}.0"
    monkeypatch.setattr(compat.transformers, "__version__", newer)
    compat.warn_untested.cache_clear()
    with pytest.warns(UserWarning, match=f"transformers {newer} is newer"):
        sparsify(model, Uniform(retain=0.5)).detach()
    sparsify(model, Uniform(retain=0.5)).detach()
    compat.warn_untested.cache_clear()
