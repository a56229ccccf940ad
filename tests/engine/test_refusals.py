"""Refusals come before anything runs; the message says what was given and what to do."""

import re

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, LlamaForCausalLM, StaticCache

from sparsight import SparseVLM, sparsify
from sparsight.errors import AttachError, BudgetError, PromptError, SettingError, UnsupportedError
from tests.support import tiny
from tests.support.caches import cached
from tests.support.cases import tiny_model

METHOD = SparseVLM(retain=0.5)


@pytest.fixture
def model():
    return tiny_model("sdpa")


@pytest.fixture
def inputs():
    return tiny.batch([["image", 5]]).inputs


def refuses(error, *words):
    """Expect an error whose message holds all words."""
    return pytest.raises(
        error, match="(?s)" + "".join(f"(?=.*{re.escape(word)})" for word in words)
    )


# ---- attaching


def test_a_model_without_images_is_refused():
    with refuses(UnsupportedError, "LlamaForCausalLM", "language_model", "sparsight models"):
        sparsify(LlamaForCausalLM(tiny.text_config()), METHOD)


def test_an_object_that_is_no_model_is_refused():
    with refuses(UnsupportedError, "Linear", "language_model", "sparsight models"):
        sparsify(torch.nn.Linear(2, 2), METHOD)


@pytest.mark.parametrize("method", ["sparsevlm", None, True, SparseVLM])
def test_an_object_that_is_no_method_is_refused(model, method):
    with refuses(UnsupportedError, repr(method), "SparseVLM(retain=192)"):
        sparsify(model, method)


@pytest.mark.parametrize("sites", [(8,), (0, 3), (3, 2), ()])
def test_sites_outside_the_decoder_are_refused(model, sites):
    with refuses(SettingError, f"sites={sites}", "1..7"):
        sparsify(model, SparseVLM(retain=0.9, sites=sites))


@pytest.mark.parametrize(
    "kernel", ["flex_attention", "flash_attention_2", "flash_attention_3", "paged|sdpa"]
)
@pytest.mark.mode("`flex_attention`, `flash_attention_2`, `flash_attention_3`, paged attention")
def test_other_attention_kernels_are_refused(kernel):
    model = tiny.tiny_llava()
    model.model.language_model.config._attn_implementation_internal = kernel
    with refuses(UnsupportedError, kernel, "attn_implementation='sdpa' or 'eager'"):
        sparsify(model, METHOD)


def test_a_kernel_chosen_inside_the_block(inputs):
    model = tiny.tiny_llava()
    with sparsify(model, METHOD):
        model.model.language_model.config._attn_implementation_internal = "flex_attention"
        with refuses(UnsupportedError, "flex_attention"):
            model(**inputs)


def test_a_kernel_switched_inside_the_block(inputs):
    model = tiny.tiny_llava()
    with sparsify(model, METHOD), torch.no_grad():
        before = model(**inputs).logits
        model.set_attn_implementation("eager")
        torch.testing.assert_close(model(**inputs).logits, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("part", ["", "model.language_model", "model.language_model.layers.3"])
@pytest.mark.mode("torch.compile before `sparsify`")
def test_a_compiled_model(part):
    model = tiny.tiny_llava()
    model.get_submodule(part).compile(backend="eager")
    with refuses(UnsupportedError, "compiled", "before torch.compile"):
        sparsify(model, METHOD)


def test_a_model_in_a_compiled_wrapper(model):
    with refuses(UnsupportedError, "compiled", "before torch.compile"):
        sparsify(torch.compile(model, backend="eager"), METHOD)


def test_a_sliding_window():
    model = tiny.tiny_llava(
        kind="qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=4
    )
    with refuses(UnsupportedError, "sliding_attention", "Qwen2Model", "full attention"):
        sparsify(model, SparseVLM(retain=0.5, positions="renumber"))


def test_queries_scaled_by_position():
    model = tiny.tiny_llava()
    model.model.language_model.config.rope_parameters["llama_4_scaling_beta"] = 0.1
    with refuses(
        UnsupportedError, "LlamaModel", "scales queries by position", "another text model"
    ):
        sparsify(model, METHOD)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_moving_rotary_tables(kind, inputs):
    extra = {
        "short_factor": [1.0] * 8,
        "long_factor": [2.0] * 8,
        "original_max_position_embeddings": 256,
    }
    rope = {
        "rope_type": kind,
        "rope_theta": 10000.0,
        "factor": 2.0,
        **(extra if kind == "longrope" else {}),
    }
    model = tiny.tiny_llava(rope_parameters=rope)
    with refuses(UnsupportedError, "renumber", kind, "positions='keep'"):
        sparsify(model, SparseVLM(retain=0.5, positions="renumber"))
    with sparsify(model, SparseVLM(retain=0.5)), torch.no_grad():
        assert model(**inputs).logits.isfinite().all()


# ---- prompts


def no_vision(model, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("the vision tower ran")

    monkeypatch.setattr(model.model.vision_tower, "forward", fail)


@pytest.mark.parametrize("retain", [37, 1000])
def test_more_tokens_than_there_are_are_all_kept(model, inputs, retain):
    wanted = model(**inputs).logits
    with sparsify(model, SparseVLM(retain=retain)) as run:
        assert torch.equal(model(**inputs).logits, wanted)
        assert run.stats.visual_tokens_per_layer == ((36,) * 8,)


def test_too_few_tokens(model, inputs, monkeypatch):
    no_vision(model, monkeypatch)
    with sparsify(model, SparseVLM(retain=2)):
        for call in (lambda: model.generate(**inputs, max_new_tokens=2), lambda: model(**inputs)):
            with refuses(
                BudgetError,
                "2 visual tokens cannot be met",
                "the least is 5.375",
                "Give retain=6 or more",
            ):
                call()


def test_training_mode(inputs):
    model = tiny.tiny_llava().train()
    with sparsify(model, METHOD), refuses(UnsupportedError, "training", "model.eval()"):
        model(**inputs)


def test_embeddings_instead_of_ids(model, inputs):
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    with sparsify(model, METHOD):
        with refuses(PromptError, "inputs_embeds", "give input_ids"):
            model(inputs_embeds=embeds, pixel_values=inputs["pixel_values"])
        with refuses(PromptError, "inputs_embeds", "give input_ids"):
            model.generate(
                inputs_embeds=embeds, pixel_values=inputs["pixel_values"], max_new_tokens=2
            )


@pytest.mark.parametrize("mask", ["bool", "float"])
def test_a_mask_of_four_dimensions(model, inputs, mask):
    length = inputs["input_ids"].shape[1]
    square = torch.ones(1, 1, length, length).tril()
    square = (
        square.bool() if mask == "bool" else (1 - square.double()) * torch.finfo(torch.float64).min
    )
    with sparsify(model, METHOD), refuses(UnsupportedError, "4 dimensions", "2-D"):
        model(**{**inputs, "attention_mask": square})


@pytest.mark.parametrize("length", [20, 60])
def test_a_mask_of_another_length(model, inputs, length):
    with sparsify(model, METHOD), pytest.raises((PromptError, UnsupportedError), match="mask"):
        model(**{**inputs, "attention_mask": torch.ones(1, length, dtype=torch.int64)})


def test_packed_prompts(model, inputs):
    """Without mask and cache, transformers takes restarting positions for packed prompts."""
    ids, length = inputs["input_ids"], inputs["input_ids"].shape[1]
    places = torch.cat([torch.arange(length - 3), torch.arange(3)])[None]
    call = {
        "input_ids": ids,
        "pixel_values": inputs["pixel_values"],
        "position_ids": places,
        "use_cache": False,
    }
    with sparsify(model, METHOD), pytest.raises((PromptError, UnsupportedError), match="packed"):
        model(**call)


def test_nothing_after_the_image(model):
    inputs = tiny.batch([[4, "image"]]).inputs
    with sparsify(model, METHOD):
        for call in (lambda: model.generate(**inputs, max_new_tokens=2), lambda: model(**inputs)):
            with refuses(
                PromptError, "sample 0", "no text follows", "put the image before its question"
            ):
                call()


def test_masked_image_tokens(model, inputs):
    mask = inputs["attention_mask"].clone()
    mask[0, 5] = 0
    with (
        sparsify(model, METHOD),
        refuses(PromptError, "sample 0", "hides visual tokens", "mask padding only"),
    ):
        model(**{**inputs, "attention_mask": mask})


@pytest.mark.mode("`logits_to_keep` as a tensor, `labels`")
def test_labels_and_scattered_logits(model, inputs):
    with sparsify(model, METHOD):
        with refuses(UnsupportedError, "labels"):
            model(**inputs, labels=inputs["input_ids"])
        with refuses(UnsupportedError, "logits_to_keep", "int"):
            model(**inputs, logits_to_keep=torch.tensor([40]))
        assert model(**inputs, logits_to_keep=2).logits.shape[1] == 2


# ---- caches and generate


def test_caches_that_cannot_be_shortened(model, inputs):
    caches = {
        "StaticLayer": StaticCache(config=model.config, max_cache_len=64),
        "offloaded": DynamicCache(config=model.config, offloading=True),
        "DynamicSlidingWindowLayer": DynamicCache(
            config=tiny.text_config(
                "qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=0
            )
        ),
    }
    with sparsify(model, METHOD):
        for kind, cache in caches.items():
            with refuses(UnsupportedError, kind, "use DynamicCache"):
                model(**inputs, **cached(cache))


OPTIONS = {
    "cache_implementation": [
        "static",
        "offloaded",
        "offloaded_static",
        "quantized",
        "sliding_window",
    ],
    "assistant_early_exit": [2],
    "use_mtp": [True],
    "speculation_type": ["dflash"],
    "prefill_chunk_size": [16],
    "penalty_alpha": [0.6],
    "dola_layers": ["high"],
    "use_cache": [False, 0],
}


@pytest.mark.parametrize(
    ("option", "value"), [(o, v) for o, values in OPTIONS.items() for v in values]
)
@pytest.mark.parametrize("way", ["argument", "generation_config", "model"])
@pytest.mark.mode("`assistant_early_exit`, `use_mtp`, `speculation_type`")
@pytest.mark.mode("contrastive search (`penalty_alpha`), `dola_layers`")
@pytest.mark.mode("`prefill_chunk_size`")
@pytest.mark.mode("`use_cache=False`")
def test_options_of_generate(inputs, option, value, way):
    model = tiny.tiny_llava()
    given = {option: value}
    if way == "generation_config":
        given = {"generation_config": GenerationConfig(**given)}
    elif way == "model":
        setattr(model.generation_config, option, value)
        given = {}
    with sparsify(model, METHOD), refuses(UnsupportedError, option, "not supported"):
        model.generate(**inputs, **given, max_new_tokens=2)


def test_allowed_options_pass(model, inputs):
    with sparsify(model, METHOD):
        want = model.generate(**inputs, max_new_tokens=3)
        for given in (
            *({"cache_implementation": name} for name in ("dynamic", "hybrid")),
            {"use_cache": True},
            {"repetition_penalty": 1.0},
        ):
            assert torch.equal(model.generate(**inputs, **given, max_new_tokens=3), want)


def test_stats_before_any_image(model):
    with sparsify(model, METHOD) as run:
        for ask in (lambda: run.stats, lambda: run.trace):
            with refuses(AttachError, "no prompt with an image"):
                ask()


def test_no_cache_asked_for_by_none(model, inputs):
    model.generation_config.use_cache = False
    with sparsify(model, METHOD), refuses(UnsupportedError, "use_cache=False"):
        model.generate(**inputs, max_new_tokens=2, use_cache=None)
    model.generation_config.use_cache = True
    with sparsify(model, METHOD), refuses(UnsupportedError, "use_cache=False"):
        model.generate(**inputs, max_new_tokens=2, use_cache=None)
