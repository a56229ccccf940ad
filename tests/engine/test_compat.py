"""Names that transformers changed: both spellings work, and an unknown one is refused on attach."""

import warnings
from dataclasses import replace

import pytest
import torch
import transformers
from transformers import DynamicCache, GenerationConfig, GenerationMixin
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.models.llama import modeling_llama
from transformers.models.llava import modeling_llava

from sparsight import SparseVLM, sparsify
from sparsight.engine import compat, layer_inputs
from sparsight.engine.cache import CACHE_PARTS, check_cache_classes
from sparsight.errors import PromptError, UnsupportedError
from sparsight.families import LLAVA, QWEN3_VL
from sparsight.methods import Downscale, Uniform
from tests.support import tiny, tiny_rotary
from tests.support.caches import NAME, cached

SPELLINGS = ("cache", "past_key_values")


@pytest.fixture
def model():
    return tiny.tiny_llava()


def inputs():
    return tiny.batch([["image", 6]]).inputs


def renamed(function, old, new):
    """A function that takes an argument by another name, as a release to come may do."""
    names = (
        function.__signature__
        if hasattr(function, "__signature__")
        else compat._signature(function)
    )
    parameters = [p.replace(name=new) if p.name == old else p for p in names.parameters.values()]

    def other(*args, **kwargs):
        return function(*args, **kwargs)

    other.__signature__ = names.replace(parameters=parameters)
    return other


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(
    "method", [SparseVLM(retain=0.5, positions="renumber"), Uniform(retain=0.5)], ids=repr
)
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
        assert torch.equal(
            model.lm_head(model.model(input_ids=step, **{spelling: cache}).last_hidden_state),
            wanted,
        )


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_generate_goes_on_with_a_cache_by_either_name(model, spelling):
    given = {**inputs(), "max_new_tokens": 3, "min_new_tokens": 3, "return_dict_in_generate": True}
    with sparsify(model, SparseVLM(retain=0.5)), warnings.catch_warnings():
        warnings.simplefilter("error")
        first = model.generate(**given)
        longer = torch.cat([first.sequences, torch.tensor([[7, 8]])], dim=1)
        later = {
            "input_ids": longer,
            "attention_mask": torch.ones_like(longer),
            "max_new_tokens": 3,
        }
        turns = []
        for name in (spelling, NAME):
            cache = compat.output_cache(model.generate(**given))
            turns.append(model.generate(**later, **{name: cache}))
        assert torch.equal(*turns)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_cache_that_cannot_be_pruned_is_refused_by_either_name(model, spelling):
    static = transformers.StaticCache(config=model.config, max_cache_len=64)
    with (
        sparsify(model, Uniform(retain=0.5)),
        pytest.raises(UnsupportedError, match="StaticLayer cannot be pruned"),
    ):
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
    with pytest.raises(
        UnsupportedError, match=r"LlavaModel\.forward takes no images as pixel_values"
    ):
        sparsify(model, Uniform(retain=0.5))


def test_images_by_a_name_that_nobody_knows_are_refused(model):
    given = inputs()
    pixels = given.pop("pixel_values")
    with (
        sparsify(model, Uniform(retain=0.5)),
        pytest.raises(PromptError, match="pixel_values_2 may be their images"),
    ):
        model(**given, pixel_values_2=pixels)


def test_a_cache_that_reaches_layers_unseen_is_refused(model, monkeypatch):
    monkeypatch.setattr(layer_inputs, "take_cache", lambda _: None)
    with (
        sparsify(model, Uniform(retain=0.5)),
        pytest.raises(UnsupportedError, match="not handed under a known name"),
    ):
        model(**inputs(), use_cache=True)


def test_an_option_of_generate_that_is_gone_is_refused(model, monkeypatch):
    class Config(GenerationConfig):
        def __init__(self):
            super().__init__()
            del self.penalty_alpha

    monkeypatch.setattr("sparsight.engine.generate_guard.GenerationConfig", Config)
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


def test_a_part_that_moved_is_refused_by_name(model):
    model.model.text = model.model.language_model
    del model.model.language_model
    with pytest.raises(
        UnsupportedError, match="LlavaModel has no part 'language_model'; sparsight is tested with"
    ):
        sparsify(model, Uniform(retain=0.5))


def test_a_config_that_names_no_placeholder_is_refused(model, monkeypatch):
    family = replace(LLAVA, visual_ids=("image_token_by_a_new_name",))
    monkeypatch.setattr("sparsight.families.LLAVA", family)
    with pytest.raises(
        UnsupportedError, match="names no visual placeholder as image_token_by_a_new_name"
    ):
        sparsify(model, Uniform(retain=0.5))


def test_an_image_encoder_that_takes_pixels_by_a_new_name_is_refused(model, monkeypatch):
    kind = type(model.model.vision_tower)
    monkeypatch.setattr(kind, "forward", renamed(kind.forward, "pixel_values", "images"))
    with pytest.raises(UnsupportedError, match=rf"{kind.__name__}\.forward takes no pixel_values"):
        sparsify(model, Downscale(retain=0.5))


def test_a_decoder_without_its_deepstack_method_is_refused(monkeypatch):
    model = tiny_rotary.model("qwen3")
    monkeypatch.delattr(type(model.model.language_model), QWEN3_VL.deepstack)
    with pytest.raises(UnsupportedError, match=r"has no _deepstack_process\(\)"):
        sparsify(model, Uniform(retain=0.5))
    assert not model.model._forward_pre_hooks


def test_attention_that_names_no_kernel_is_refused(model, monkeypatch):
    class Config:
        pass

    monkeypatch.setattr(model.model.language_model.layers[0].self_attn, "config", Config())
    with pytest.raises(UnsupportedError, match="LlamaAttention does not name its kernel"):
        sparsify(model, SparseVLM(retain=0.5))
    assert not model.model._forward_pre_hooks


@pytest.mark.parametrize(
    ("kind", "name"),
    [(DynamicLayer, "reorder_cache"), (DynamicSlidingWindowLayer, "activate_past_recording")],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_a_cache_of_other_parts_is_refused(model, monkeypatch, kind, name):
    for owner in kind.__mro__:
        if name in vars(owner):
            monkeypatch.delattr(owner, name)
    check_cache_classes.cache_clear()
    with pytest.raises(
        UnsupportedError, match=rf"transformers' cache has no {kind.__name__}\.{name}\(\)"
    ):
        sparsify(model, Uniform(retain=0.5))


def test_a_cache_that_counts_by_another_name_is_refused(model, monkeypatch):
    class Layer(DynamicSlidingWindowLayer):
        def __init__(self, sliding_window):
            super().__init__(sliding_window)
            del self.cumulative_length

    monkeypatch.setattr("sparsight.engine.cache.DynamicSlidingWindowLayer", Layer)
    monkeypatch.setitem(CACHE_PARTS, Layer, CACHE_PARTS[DynamicSlidingWindowLayer])
    check_cache_classes.cache_clear()
    with pytest.raises(
        UnsupportedError, match=r"transformers' cache has no Layer\.cumulative_length"
    ):
        sparsify(model, Uniform(retain=0.5))


def test_two_caches_under_two_names_are_refused(model):
    both = {"cache": DynamicCache(), "past_key_values": DynamicCache()}
    with sparsify(model, Uniform(retain=0.5)):
        for call in (model, model.model, model.generate):
            with pytest.raises(UnsupportedError, match="two different caches are given"):
                call(**inputs(), **both)
        same = DynamicCache()
        compat.check_one_cache({"cache": same, "past_key_values": same})
