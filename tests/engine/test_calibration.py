"""Calibrated attention: prefill, decoding and later turns equal dense runs that add the biases."""

import pytest
import torch
from transformers import DynamicCache

from sparsight import sparsify
from sparsight.engine import calibrator
from sparsight.engine.compat import output_cache
from sparsight.engine.support import describe, supports
from sparsight.errors import UnsupportedError
from sparsight.methods import FastV, Random, Restore, SparseVLM
from tests.engine.test_masked import MODES
from tests.engine.test_modes import DRAFTS, drafts_alike, echo
from tests.support import contract, replay, tiny
from tests.support.caches import cached
from tests.support.cases import KERNELS, LAYOUTS, same, tiny_model
from tests.support.tiny_families import family_batch, tiny_family
from tests.support.tiny_kinds import KINDS

METHODS = {
    "restore": Restore(retain=0.4),
    "calibration alone": Restore(retain=0.5, gamma=1.0, c=1.2, base=Random()),
    "two sites": Restore(retain=0.5, gamma=0.3, base=Random(sites=(0, 3))),
    "fastv": Restore(retain=0.6, base=FastV()),
    "sizes alone": SparseVLM(retain=0.4, theta=0.05, calibrate=True),
}


def words(*shape, seed=5):
    return torch.randint(4, tiny.VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def check(seen, batch, *said):
    """Compare every sample with a dense run of it alone."""
    for b, alone in enumerate(batch.alone):
        spoken = [part[b].tolist() for part in said]
        want = seen.wanted(tiny_model("sdpa"), alone, b, *spoken)
        got = seen.got(b)
        contract.close(got, want.to(got.dtype), f"sample {b}")


@pytest.mark.parametrize("layout", ["left padded", "unequal images"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("method", METHODS)
def test_prefill_steps_and_a_longer_turn_equal_dense(method, kernel, layout):
    model = tiny_model(kernel)
    batch = tiny.batch(LAYOUTS[layout], dtype=model.dtype)
    said = words(2, 1), words(2, 4, seed=6), words(2, 1, seed=7)
    check(replay.watch(model, METHODS[method], batch.inputs, *said), batch, *said)


@pytest.mark.parametrize("method", ["restore", "fastv"])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_generate_equals_dense(mode, method):
    model, method = tiny_model("sdpa"), METHODS[method]
    settings = MODES[mode]
    batch = tiny.batch(LAYOUTS["left padded"], dtype=model.dtype)
    seen = replay.watch(model, method, batch.inputs)
    torch.manual_seed(0)
    with sparsify(model, method):
        done = model.generate(
            **batch.inputs,
            **settings,
            max_new_tokens=4,
            return_dict_in_generate=True,
            output_logits=True,
            output_scores=True,
        )
    copies = settings.get("num_return_sequences", 1)
    for row, sequence in enumerate(done.sequences):
        said = sequence[batch.inputs["input_ids"].shape[1] :].tolist()
        b = row // copies
        want = seen.wanted(model, batch.alone[b], b, said)[-len(said) - 1 : -1]
        if "num_beams" in settings:
            score = float(want.log_softmax(dim=-1).gather(1, torch.tensor(said)[:, None]).sum())
            assert abs(score - float(done.sequences_scores[row])) < 1e-3
        else:
            got = torch.stack([step[row] for step in done.logits]).to(model.dtype)
            contract.close(got, want, f"row {row}")


@pytest.mark.parametrize("option", DRAFTS)
@pytest.mark.parametrize("method", ["restore", "fastv", "sizes alone"])
def test_drafted_tokens_are_those_of_greedy_decoding(method, option):
    """A drafted candidate in the first pass is a decode step, to which distance adds nothing."""
    if tiny.OLD and option == "assistant_model":
        pytest.skip("transformers before 5.18 give the images to a drafting model that takes none")
    model = tiny_model("sdpa")
    inputs = tiny.batch([["image", 2, 8, "image", 9]]).inputs
    echo(inputs["input_ids"], 4)
    drafts_alike(model, inputs, option, [METHODS[method]])


@pytest.mark.parametrize("kernel", KERNELS)
def test_candidates_in_the_first_pass_are_decode_steps(kernel):
    """Logits of a prompt that is run with drafted tokens behind it, each of which is right."""
    model, method = tiny_model(kernel), METHODS["restore"]
    batch, said = tiny.batch(LAYOUTS["left padded"], dtype=model.dtype), words(2, 3)
    seen = replay.watch(model, method, batch.inputs, *said.split(1, dim=1))
    ids = torch.cat([batch.inputs["input_ids"], said], dim=1)
    mask = torch.cat([batch.inputs["attention_mask"], torch.ones_like(said)], dim=1)
    with sparsify(model, method) as run, torch.no_grad():
        run._engine.expect(batch.inputs["input_ids"], dict(batch.inputs))  # as generate() does
        drafted = model(**{**batch.inputs, "input_ids": ids, "attention_mask": mask}).logits
    for b in range(2):
        want = seen.got(b)
        contract.close(drafted[b, -len(want) :], want, f"sample {b}")


@pytest.mark.parametrize("method", METHODS)
def test_decoding_after_a_crop_equals_dense(method):
    model, method = tiny_model("sdpa"), METHODS[method]
    batch, cache = tiny.batch([["image", 4]]), DynamicCache()
    said = words(1, 4)
    ids = batch.inputs["input_ids"]
    again = torch.cat([ids[:, -1:], said], dim=1)
    with sparsify(model, method), torch.no_grad():
        model(**batch.inputs, **cached(cache))
        model(input_ids=words(1, 3, seed=7), **cached(cache))
        cache.crop(-4)  # the wrong answer, and the last word of the question
        got = model(input_ids=again, **cached(cache)).logits[0]
    seen = replay.watch(model, method, batch.inputs)
    # what is read again is a later turn, the last word of the question too
    want = seen.wanted(model, {**batch.inputs, "input_ids": ids[:, :-1]}, 0, again[0].tolist())
    contract.close(got, want[-5:], "after a crop")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("method", METHODS)
def test_without_a_cache(method, kernel):
    model = tiny_model(kernel)
    batch = tiny.batch(LAYOUTS["unequal images"], dtype=model.dtype)
    seen = replay.watch(model, METHODS[method], batch.inputs)
    with sparsify(model, METHODS[method]), torch.no_grad():
        seen.parts = [model(**batch.inputs, use_cache=False).logits]
    check(seen, batch)


@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_that_keep_all_are_not_calibrated(kernel):
    """A count that is more than one image has: beside a pruned row, others are as in the model."""
    model, method = tiny_model(kernel), Restore(retain=40)
    batch = tiny.batch([["image", "image", 9], ["image", 5], [12]], dtype=model.dtype)
    seen = replay.watch(model, method, batch.inputs)
    with torch.no_grad():
        for b in (1, 2):
            plain = model(**batch.alone[b]).logits[0]
            contract.close(seen.got(b), plain, f"sample {b}")
    contract.close(
        seen.got(0), seen.wanted(tiny_model("sdpa"), batch.alone[0], 0).to(model.dtype), "sample 0"
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_full_retention_is_untouched(kernel):
    model = tiny_model(kernel)
    inputs = tiny.batch(LAYOUTS["unequal images"], dtype=model.dtype).inputs
    options = {"max_new_tokens": 3, "output_logits": True, "return_dict_in_generate": True}
    plain = model.generate(**inputs, **options)
    for base in (Random(), FastV(), SparseVLM(recycle=False)):
        with sparsify(model, Restore(retain=1.0, base=base)):
            assert same(model.generate(**inputs, **options), plain)
    first = model.generate(**inputs, max_new_tokens=2, return_dict_in_generate=True)
    with sparsify(model, Restore(retain=1.0)), torch.no_grad():  # and an image behind a cache
        mask = torch.cat([torch.ones_like(first.sequences[:, 1:]), inputs["attention_mask"]], dim=1)
        model(**{**inputs, "attention_mask": mask}, **cached(output_cache(first)))


def test_images_behind_a_cache_are_refused_where_distance_counts():
    model = tiny_model("sdpa")
    inputs = tiny.batch([["image", 4]]).inputs
    mask = torch.cat([torch.ones(1, 6, dtype=torch.int64), inputs["attention_mask"]], dim=1)
    later = {**inputs, "attention_mask": mask}
    for method, refused in (
        (Restore(retain=0.5), True),
        (Restore(retain=0.5, calibrate=False), False),
        (METHODS["sizes alone"], False),
    ):
        with sparsify(model, method), torch.no_grad():
            for call in (model, model.generate):
                cache = DynamicCache()
                model(input_ids=words(1, 6), **cached(cache))
                given = {**later, **cached(cache)}
                if call is not model:
                    given["input_ids"] = torch.cat([words(1, 6), inputs["input_ids"]], dim=1)
                    given["max_new_tokens"] = 1
                if not refused:
                    assert call is not model or call(**given).logits.isfinite().all()
                    continue
                with pytest.raises(UnsupportedError, match=r"cache of 6 tokens.*calibrate=False"):
                    call(**given)


def test_other_kernels_are_refused_by_name():
    model = tiny.tiny_llava(attention="flex_attention")
    with pytest.raises(UnsupportedError, match="'flex_attention' is not supported"):
        sparsify(model, Restore(retain=0.5))


def test_layers_that_turn_no_keys_are_refused_by_name():
    config = tiny_family("aya-vision").config.__class__(
        vision_config=tiny_family("aya-vision").config.vision_config,
        text_config={"model_type": "cohere2", **tiny.TEXT, "sliding_window": 20},
    )
    messages = [refusal.message for refusal in supports(describe(config), Restore(retain=0.5))]
    assert any("turn no keys by their position; give calibrate=False" in one for one in messages)
    assert not supports(describe(config), Restore(retain=0.5, calibrate=False))


@pytest.mark.parametrize("name", KINDS)
def test_every_family_is_calibrated(name):
    model = tiny_family(name)
    batch = family_batch(model, name, [["image", 5], [2, "image", 2, "image", 6]])
    contract.check(model, Restore(retain=0.5, base=Random()), batch, "alone", "decode", "finite")


def count_calls(monkeypatch, name):
    calls, plain = [], getattr(calibrator, name)
    monkeypatch.setattr(calibrator, name, lambda *rest: calls.append(1) or plain(*rest))
    return calls


def test_a_pass_makes_its_biases_once(monkeypatch):
    model, inputs = tiny_model("sdpa"), tiny.batch(LAYOUTS["unequal images"]).inputs
    pairs, masks = count_calls(monkeypatch, "bias_of_tables"), {}

    def note(index, kwargs):
        masks[index] = kwargs["attention_mask"]

    with sparsify(model, METHODS["restore"]), torch.no_grad():
        handles = []
        for index, layer in enumerate(model.model.language_model.layers):
            handles.append(
                layer.register_forward_pre_hook(
                    lambda _, __, kwargs, i=index: note(i, kwargs), with_kwargs=True
                )
            )
        cache = DynamicCache()
        model(**inputs, **cached(cache))
        assert len(pairs) == 1
        assert all(masks[index] is masks[1] for index in range(2, 8))
        mask = torch.cat([inputs["attention_mask"], torch.ones(2, 1, dtype=torch.int64)], dim=1)
        model(input_ids=words(2, 1), attention_mask=mask, **cached(cache))
        assert len(pairs) == 1
        assert all(masks[index] is masks[1] for index in range(2, 8))
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_and_narrow_dtypes_give_finite_numbers(dtype, kernel):
    wide, narrow = tiny_model(kernel, dtype=torch.float32), tiny_model(kernel, dtype=dtype)
    batch = tiny.batch(LAYOUTS["left padded"], dtype=torch.float32)
    options = {"max_new_tokens": 3, "output_logits": True, "return_dict_in_generate": True}
    for method in METHODS.values():
        contract.check(narrow, method, tiny.batch(LAYOUTS["left padded"], dtype=dtype), "finite")
        with sparsify(wide, method), torch.autocast("cpu", dtype):
            done = wide.generate(**batch.inputs, **options)
        assert all(step.isfinite().all() for step in done.logits)


def test_a_cache_keeps_what_its_keys_add():
    model, inputs = tiny_model("sdpa"), tiny.batch(LAYOUTS["unequal images"]).inputs
    cache = DynamicCache()
    with sparsify(model, METHODS["two sites"]) as run, torch.no_grad():
        model(**inputs, **cached(cache))
        for index in (0, 1, 4):  # all visual tokens are merged into those that are left
            added = (cache.layers[index].read_bias().exp() - 1).sum(dim=1)
            left = torch.tensor([row[index] for row in run.stats.visual_tokens_per_layer])
            torch.testing.assert_close(added, torch.tensor(run.stats.visual_tokens) - left.float())
        layer = cache.layers[4]
        before = layer.read_bias().clone()
        cache.reorder_cache(torch.tensor([1, 0]))
        assert torch.equal(layer.read_bias(), before.flip(0))
        cache.batch_repeat_interleave(2)
        assert torch.equal(layer.read_bias(), before.flip(0).repeat_interleave(2, dim=0))
        cache.batch_select_indices(torch.tensor([3]))
        assert torch.equal(layer.read_bias(), before[:1])
