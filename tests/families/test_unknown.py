"""Unregistered classes are hosted where they follow LLaVA's pattern, else refused by name."""

import warnings

import pytest
import torch
import transformers as hf
from transformers import DynamicCache

from sparsight import SparseVLM, sparsify
from sparsight.errors import UnsupportedError
from sparsight.families import family_of
from sparsight.families.unknown import find_unknown_family
from tests.support import tiny
from tests.support.caches import cached
from tests.support.tiny_families import family_batch, tiny_family
from tests.support.tiny_kinds import KINDS

EXPERTS = ("aria", "mini-gemini-mixtral")  # refused where nobody registered them
METHOD = SparseVLM(retain=0.5)


@pytest.fixture
def unknown(monkeypatch):
    """Gives a tiny model a class that nobody registered."""

    def rename(model):
        kind = type(model)
        monkeypatch.setattr(
            model, "__class__", type("Unknown" + kind.__name__, (kind,), {}), raising=False
        )
        return model

    return rename


@pytest.mark.parametrize("name", [name for name in KINDS if name not in EXPERTS])
def test_a_class_of_the_pattern_works_as_if_registered(name, unknown):
    model = tiny_family(name)
    batch = family_batch(model, name, [["image", 5], [2, "image", 2, "image", 6]])
    found, family = find_unknown_family(model), family_of(model)
    assert (found.base, found.decoder) == (family.base, family.decoder)
    assert found.placeholder_ids(model.config) == family.placeholder_ids(model.config)
    with sparsify(model, METHOD), torch.no_grad():
        want = model(**batch.inputs).logits
    with torch.no_grad():
        plain = model(**batch.inputs).logits
        with sparsify(unknown(model), METHOD) as run:
            assert torch.equal(model(**batch.inputs).logits, want)
        assert run.stats.visual_tokens
        assert torch.equal(model(**batch.inputs).logits, plain)


def test_the_model_without_a_head(unknown):
    model = tiny.tiny_llava().model
    family = find_unknown_family(unknown(model))
    assert family.base_model(model) is model
    with sparsify(model, METHOD) as run, torch.no_grad():
        model(**tiny.batch([["image", 5]]).inputs)
    assert run.stats.visual_tokens == (tiny.VISUAL,)


def test_aria_is_hosted_only_by_name(unknown):
    model = tiny_family("aria")
    with pytest.raises(
        UnsupportedError, match=r"UnknownAria.*mixture of experts, whose costs are not known"
    ):
        sparsify(unknown(model), METHOD)


REFUSED = {
    "Qwen2VLForConditionalGeneration": "M-RoPE",
    "Qwen3VLForConditionalGeneration": "DeepStack",
    "GraniteDoclingForConditionalGeneration": "DeepStack",
    "Gemma3ForConditionalGeneration": "sliding windows",
    "PaliGemmaForConditionalGeneration": "attention that is not causal",
    "Gemma4ForConditionalGeneration": "inputs of each layer beside the hidden states",
    "Molmo2ForConditionalGeneration": "see each other both ways",
    "Qwen3_5ForConditionalGeneration": "linear_attn, mlp instead of self_attn",
    "Lfm2VlForConditionalGeneration": "made of feed_forward, self_attn instead",
    "MllamaForConditionalGeneration": "cross attention",
    "Kimi_K25ForConditionalGeneration": "mixture of experts",
    "FuyuForCausalLM": "reads position_ids",
    "Llama4ForConditionalGeneration": "no text decoder at language_model or text_model",
    "Blip2ForConditionalGeneration": "no text decoder",
    "Florence2ForConditionalGeneration": "no text decoder",
}


def small(config):
    """Few layers in every part, of the kinds they would have."""
    parts = [config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", {}))]
    for part in filter(None, parts):
        for name in ("num_hidden_layers", "depth"):
            if isinstance(getattr(part, name, None), int):
                setattr(part, name, min(getattr(part, name), 6))
        if isinstance(getattr(part, "layer_types", None), list):
            part.layer_types = part.layer_types[:6]
    return config


@pytest.mark.parametrize("name", REFUSED)
def test_dangerous_patterns_are_refused_by_name(name):
    kind = getattr(hf, name, None)
    if kind is None:
        pytest.skip(f"this version of transformers has no {name}")
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        model = kind._from_config(small(kind.config_class()))
    with pytest.raises(
        UnsupportedError, match=f"^{name} is not of a supported class.*{REFUSED[name]}"
    ):
        find_unknown_family(model)


def shifted(kwargs):
    return {"position_embeddings": tuple(table.flip(1) for table in kwargs["position_embeddings"])}


def sees_ahead(kwargs):
    mask = kwargs["attention_mask"].clone()
    mask[:, :, 5, 6] = True
    return {"attention_mask": mask}


def windowed(kwargs):
    mask = kwargs["attention_mask"]
    return {"attention_mask": mask & torch.ones(mask.shape[-2:]).tril().triu(-8).bool()}


DECODER, LAYER = "model.language_model", "model.language_model.layers.3"
ODD = {
    "a mask of its own": (
        DECODER,
        lambda _: {"attention_mask": {"full_attention": None}},
        "mask of its own making",
    ),
    "no embeddings": (
        DECODER,
        lambda k: {"inputs_embeds": None, "input_ids": torch.ones(2, 12).long()},
        "inputs_embeds",
    ),
    "M-RoPE": (
        DECODER,
        lambda _: {"position_ids": torch.arange(12).expand(3, 2, -1)},
        "positions of 3 dimensions",
    ),
    "features beside": (DECODER, lambda _: {"visual_planes": torch.zeros(2, 12)}, "visual_planes"),
    "an argument beside": (LAYER, lambda _: {"shared": torch.zeros(1)}, "shared"),
    "other tables": (LAYER, shifted, "not those of rotary_emb"),
    "two pairs of tables": (
        LAYER,
        lambda k: {"position_embeddings": {"full": k["position_embeddings"]}},
        "one cosine",
    ),
    "a mask that looks ahead": (LAYER, sees_ahead, "not causal or hide more than padding"),
    "a window": (LAYER, windowed, "not causal or hide more than padding"),
    "no padding": (
        LAYER,
        lambda _: {"attention_mask": None},
        "not causal or hide more than padding",
    ),
}


@pytest.mark.parametrize("odd", ODD)
def test_the_probe_sees_what_runs_beside(odd, unknown):
    path, change, words = ODD[odd]
    model = unknown(tiny.tiny_llava())

    def hook(_, args, kwargs):
        return args, {**kwargs, **change(kwargs)}

    model.get_submodule(path).register_forward_pre_hook(hook, with_kwargs=True)
    before = [len(module._forward_pre_hooks) for module in model.modules()]
    with pytest.raises(UnsupportedError, match=f"(?s)UnknownLlava.*{words}|could not be probed"):
        sparsify(model, METHOD)
    assert [len(module._forward_pre_hooks) for module in model.modules()] == before


def test_the_probe_sees_layers_that_store_nothing(unknown):
    model = unknown(tiny.tiny_llava())

    def hook(_, args, kwargs):
        return args, {**kwargs, **cached(DynamicCache())}

    model.get_submodule(LAYER + ".self_attn").register_forward_pre_hook(hook, with_kwargs=True)
    with pytest.raises(UnsupportedError, match="stored"):
        sparsify(model, METHOD)


def test_a_base_model_that_lengthens_the_prompt(unknown):
    model, inputs = unknown(tiny.tiny_llava()), tiny.batch([["image", 5]]).inputs
    names = ("inputs_embeds", "attention_mask")

    def longer(_, args, kwargs):
        more = {name: torch.cat([kwargs[name][:, :1], kwargs[name]], dim=1) for name in names}
        return args, {**kwargs, **more, "position_ids": None}

    with sparsify(model, METHOD):
        model.model.language_model.register_forward_pre_hook(longer, with_kwargs=True, prepend=True)
        with pytest.raises(UnsupportedError, match="42 token ids became 43 tokens"):
            model(**inputs)
