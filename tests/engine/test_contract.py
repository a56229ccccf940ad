"""The engine's contract, for methods x kernels x kinds of prompt."""

import pytest
import torch
from transformers import DynamicCache

from sparsight import SparseVLM, SparseVLMPlus, sparsify
from sparsight.engine.compat import output_cache
from sparsight.errors import AttachError, PromptError
from sparsight.methods import PixelPrune, Uniform, methods
from tests.support import contract, dense, tiny
from tests.support.caches import cached
from tests.support.cases import (
    KERNELS,
    LAYOUTS,
    METHODS,
    REPRESENTATIVES,
    Identity,
    crossed,
    same,
    tiny_model,
)


@pytest.mark.parametrize(("method", "kernel", "layout"), crossed(METHODS))
def test_methods_keep_the_contract(method, kernel, layout):
    model = tiny_model(kernel)
    batch = tiny.batch(LAYOUTS[layout], dtype=model.dtype)
    contract.check(model, METHODS[method], batch)


@pytest.mark.parametrize(
    ("method", "kernel", "layout"),
    crossed(
        # others take videos alone, or Qwen's models
        [one for one in methods() if not one.videos_only and one is not PixelPrune],
        (SparseVLMPlus, Uniform, SparseVLM),
    ),
)
def test_full_retention_is_bit_identical(method, kernel, layout):
    model = tiny_model(kernel)
    inputs = tiny.batch(LAYOUTS[layout], dtype=model.dtype).inputs
    with torch.no_grad():
        plain = model(**inputs).logits
        with sparsify(model, method(retain=1.0)) as run:
            assert torch.equal(model(**inputs).logits, plain)
    assert run.stats.mean_visual_tokens == sum(run.stats.visual_tokens) / sum(
        v > 0 for v in run.stats.visual_tokens
    )


@pytest.mark.parametrize("positions", ["keep", "renumber"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_keeping_everything_at_active_sites_is_bit_identical(kernel, layout, positions):
    model = tiny_model(kernel)
    inputs = tiny.batch(LAYOUTS[layout], dtype=model.dtype).inputs
    seen = contract.prefill(model, Identity(positions=positions), inputs)
    with torch.no_grad():
        plain = model(**seen.inputs).logits
    assert all(len(sites) == len(seen.stats.sites) for sites in seen.trace.samples if sites)
    real = inputs["attention_mask"].bool()
    assert torch.equal(seen.logits[real], plain[real])


@pytest.mark.parametrize("method", REPRESENTATIVES)
def test_text_only_prompt_is_untouched(method):
    model = tiny_model("sdpa")
    batch = tiny.batch([[9], [17]])
    plain = model.generate(
        **batch.inputs, max_new_tokens=4, output_logits=True, return_dict_in_generate=True
    )
    with sparsify(model, METHODS[method]) as run:
        own = model.generate(
            **batch.inputs, max_new_tokens=4, output_logits=True, return_dict_in_generate=True
        )
        with pytest.raises(AttachError, match="no prompt with an image"):
            _ = run.stats
    assert same(own, plain)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.mode("a hand-written loop")
def test_manual_loop_without_position_ids_equals_generate(kernel):
    model = tiny_model(kernel)
    inputs = tiny.batch([[2, "image", 7]], dtype=model.dtype).inputs
    for method in REPRESENTATIVES:
        with sparsify(model, METHODS[method]), torch.no_grad():
            done = model.generate(
                **inputs, max_new_tokens=5, output_logits=True, return_dict_in_generate=True
            )
            cache = DynamicCache()
            logits = [model(**inputs, **cached(cache)).logits[:, -1]]
            for token in done.sequences[0, -5:-1]:
                logits.append(model(input_ids=token.view(1, 1), **cached(cache)).logits[:, -1])
        for own, other in zip(logits, done.logits, strict=True):
            contract.close(own, other.to(own.dtype), "the manual loop differs from generate")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("method", REPRESENTATIVES)
def test_hidden_states_have_the_promised_lengths(method, kernel):
    model = tiny_model(kernel)
    inputs = tiny.batch([["image", 7]], dtype=model.dtype).inputs
    with sparsify(model, METHODS[method]) as run, torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    lengths = [state.shape[1] for state in states]
    entered = run.stats.tokens_per_layer[0]
    assert lengths == [entered[0], *entered]


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_narrow_dtypes_give_finite_numbers(layout, dtype, kernel):
    model = tiny_model(kernel, dtype=dtype)
    batch = tiny.batch(LAYOUTS[layout], dtype=dtype)
    for method in (
        SparseVLM(retain=0.5),
        SparseVLM(level="rank", retain=None),
        SparseVLMPlus(retain=0.5),
    ):
        contract.check(model, method, batch, "finite", "counts")


@pytest.mark.parametrize(
    "shape",
    [
        {"kind": "qwen2"},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1},
        {"num_hidden_layers": 2},
    ],
)
@pytest.mark.parametrize("kernel", KERNELS)
def test_other_text_models_keep_the_contract(kernel, shape):
    model = tiny_model(kernel, **shape)
    batch = tiny.batch(LAYOUTS["unequal images"], dtype=model.dtype)
    for method in (
        SparseVLM(retain=0.7),
        SparseVLM(retain=0.7, positions="keep"),
        SparseVLMPlus(retain=0.7),
    ):
        contract.check(model, method, batch)


def test_the_model_without_a_head_prunes_alike():
    model, method = tiny_model("sdpa"), SparseVLM(retain=0.5)
    inputs = tiny.batch([["image", 7]]).inputs
    with torch.no_grad():
        with sparsify(model.model, method) as run:
            hidden = model.model(**inputs).last_hidden_state
        with sparsify(model, method) as other:
            logits = model(**inputs).logits
    assert torch.equal(model.lm_head(hidden), logits)
    assert run.stats.schedules == other.stats.schedules


def test_padding_on_the_right_changes_no_logits():
    model, method = tiny_model("sdpa"), SparseVLM(retain=0.5)
    batch = tiny.batch([["image", 3], ["image", 8]], left=False)
    with sparsify(model, method) as run, torch.no_grad():
        logits = model(**batch.inputs).logits
    for b, pads in ((0, 5), (1, 0)):
        want = dense.Reference(model, method).run(dense.turn(model, batch.alone[b])).logits
        end = logits.shape[1] - pads
        contract.close(logits[b, end - len(want) : end], want, f"sample {b}")
        assert run.stats.tokens_per_layer[b][-1] == len(want)


def test_a_row_of_padding_alone_is_refused_or_ignored():
    model, method = tiny_model("sdpa"), SparseVLM(retain=0.5)
    batch = tiny.batch([["image", 5], [20]])
    batch.inputs["attention_mask"][1] = 0
    with sparsify(model, method) as run, torch.no_grad():
        try:
            logits = model(**batch.inputs).logits
        except PromptError as error:
            assert "sample 1" in str(error)  # noqa: PT017
            return
    want = dense.Reference(model, method).run(dense.turn(model, batch.alone[0])).logits
    contract.close(logits[0, -run.stats.tokens_per_layer[0][-1] :], want, "sample 0")


def test_images_that_vanish_at_tiny_counts_are_masked_right():
    model, method = tiny_model("sdpa"), SparseVLM(sites=(1, 3, 5), kept=(2, 2, 1), recycle=False)
    for seed in range(6):
        batch = tiny.batch([["image", 3, "image", 3, "image", 6]], seed=seed)
        seen = contract.prefill(model, method, batch.inputs)
        want = dense.Reference(model, method).run(dense.turn(model, batch.inputs)).logits
        contract.close(seen.tail(0), want, f"seed {seed}")


@pytest.mark.parametrize("method", ["sparsevlm", "keep positions", "plus"])
def test_an_image_of_one_token_is_kept(method):
    model = tiny.tiny_llava(side=tiny.PATCH)
    batch = tiny.batch([["image", 3], ["image", 2, "image", 2, "image", 4]], side=tiny.PATCH)
    settings = {**vars(METHODS[method]), "retain": 1}
    with sparsify(model, type(METHODS[method])(**settings)), torch.no_grad():
        with pytest.raises(ValueError, match="cannot be met"):
            model(**batch.inputs)  # three tokens run in full through the first layer
        logits = model(**batch.alone[0]).logits
    with torch.no_grad():
        assert torch.equal(logits, model(**batch.alone[0]).logits)


def test_an_image_at_the_very_start_is_pruned_right():
    model = tiny_model("sdpa")
    batch = tiny.batch([["image", 4], [1, "image", 4]], first=())
    for method in REPRESENTATIVES:
        contract.check(model, METHODS[method], batch)


@pytest.mark.parametrize("method", METHODS)
def test_costs_are_those_of_what_ran(method):
    model, inputs = tiny_model("sdpa"), tiny.batch([["image", 7]]).inputs
    seen = contract.prefill(model, METHODS[method], inputs)
    stored = sum(
        x.numel() * x.element_size()
        for layer in seen.cache.layers
        for x in (layer.keys, layer.values)
    )
    assert seen.stats.kv_cache_bytes == stored
    with torch.no_grad():
        cache = output_cache(model(**inputs, **cached(DynamicCache())))
    plain = sum(
        x.numel() * x.element_size() for layer in cache.layers for x in (layer.keys, layer.values)
    )
    assert seen.stats.dense_kv_cache_bytes == plain
    assert seen.stats.prefill_flops < seen.stats.dense_prefill_flops
    # the rounding of retain is below a token, and each wait for the device is one that is known
    wanted = METHODS[method].retain
    if isinstance(wanted, float) and wanted < 1:
        assert seen.stats.mean_visual_tokens <= wanted * tiny.VISUAL
    ranks = len(seen.stats.sites) if contract.is_adaptive(METHODS[method]) else 0
    # ids, mask and raters; each rank is read at its site
    assert seen.stats.host_reads == 3 + ranks if ranks else seen.stats.host_reads <= 3


@pytest.mark.skipif(tiny.OLD, reason="transformers before 5.18 do not encode images ahead")
def test_images_encoded_before_give_the_same_logits():
    model, inputs = tiny_model("sdpa"), tiny.batch([["image", 7]]).inputs
    with sparsify(model, SparseVLM(retain=0.5)), torch.no_grad():
        want = model(**inputs).logits
        outputs = {"image": model.get_image_features(pixel_values=inputs["pixel_values"])}
        hidden = model.model(
            input_ids=inputs["input_ids"], mm_encoder_outputs=outputs
        ).last_hidden_state
    assert torch.equal(model.lm_head(hidden), want)


@pytest.mark.parametrize("kernel", KERNELS)
def test_other_calls_give_the_same_logits(kernel):
    model = tiny_model(kernel)
    inputs = tiny.batch([["image", 7]], dtype=model.dtype).inputs
    with sparsify(model, SparseVLM(retain=0.5)) as run:
        with torch.no_grad():
            want = model(**inputs).logits
        model(**inputs).logits.sum().backward()  # with gradients
        model.zero_grad()
        with torch.inference_mode():
            assert torch.equal(model(**inputs).logits, want)
            assert torch.equal(model(**inputs, return_dict=False)[0], want)
            ids, pixels = inputs["input_ids"], inputs["pixel_values"]
            answers = [
                model.generate(**inputs, max_new_tokens=3),
                model.generate(ids, pixel_values=pixels, max_new_tokens=3),
                model.generate(inputs=ids, pixel_values=pixels, max_new_tokens=3),
            ]
            assert all(torch.equal(answer, answers[0]) for answer in answers)
            if kernel == "eager":
                maps = model(**inputs, output_attentions=True).attentions
                assert tuple(part.shape[-1] for part in maps) == run.stats.tokens_per_layer[0]
