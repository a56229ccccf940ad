"""After the block the model is as it was; a second engine never mixes with the first."""

import contextlib
import copy
import functools
import threading

import pytest
import torch

from sparsight import SparseVLM, SparseVLMPlus, sparsify
from sparsight.engine import passes
from sparsight.engine.tap import attach_tap
from sparsight.errors import AttachError, SettingError, SparsightError, UnsupportedError
from sparsight.methods import SCOPE, Downscale, ToMe, Uniform
from tests.support import tiny
from tests.support.footprint import snapshot


@pytest.fixture(autouse=True)
def no_open_pass():
    yield
    passes._CURRENT.set(None)  # a failing test must not fail the next


@pytest.fixture
def model(inputs):
    """Has run once: transformers puts hooks of its own on the vision layers then."""
    made = tiny.tiny_llava()
    made.generate(**inputs, max_new_tokens=2)
    return made


@pytest.fixture
def inputs():
    return tiny.batch([["image", 5]]).inputs


def prefill(model, inputs, **changes):
    with torch.no_grad():
        return model(**{**inputs, **changes}).logits


@pytest.mark.parametrize(
    "method", [SparseVLM(), SparseVLM(positions="keep"), SparseVLMPlus(), Downscale()]
)
def test_block_leaves_no_trace(model, inputs, method):
    before, plain = snapshot(model), prefill(model, inputs)
    with sparsify(model, method):
        assert snapshot(model) != before
        prefill(model, inputs)
        model.generate(**inputs, max_new_tokens=3)
    assert snapshot(model) == before
    assert passes._CURRENT.get() is None
    assert torch.equal(prefill(model, inputs), plain)


def test_a_second_detach_does_nothing(model, inputs):
    before = snapshot(model)
    run = sparsify(model, SparseVLM())
    prefill(model, inputs)
    run.detach()
    assert snapshot(model) == before
    run.detach()
    assert snapshot(model) == before
    assert run.stats.visual_tokens == (tiny.VISUAL,)


def test_an_error_in_the_body_leaves_no_trace(model):
    before = snapshot(model)
    with pytest.raises(ZeroDivisionError), sparsify(model, SparseVLM()):
        _ = 1 / 0
    assert snapshot(model) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize(
    "where",
    ["vision_tower", "language_model.layers.0", "language_model.layers.5", "language_model.norm"],
)
def test_an_error_inside_the_model_leaves_no_trace(model, inputs, where, error):
    before, text = snapshot(model), tiny.batch([[9]]).inputs
    plain = prefill(model, text)

    def fail(*_):
        raise error("stop")

    with sparsify(model, SparseVLM(retain=0.5)) as run:
        pruned = prefill(model, inputs)
        handle = model.model.get_submodule(where).register_forward_pre_hook(fail)
        with pytest.raises(error):
            prefill(model, inputs)
        handle.remove()
        # no hook of torch sees an interrupt, so its pass stays open until the next one or the end
        # of the block
        assert passes._CURRENT.get() is None or error is KeyboardInterrupt, (
            "the broken pass is still open"
        )
        assert torch.equal(model(**text).logits, plain)
        assert passes._CURRENT.get() is None, "passes pile up"
        assert torch.equal(prefill(model, inputs), pruned)
        assert run.stats.visual_tokens == (tiny.VISUAL,)
    assert snapshot(model) == before
    assert passes._CURRENT.get() is None


def test_a_refused_prompt_leaves_the_block_usable(model, inputs):
    with sparsify(model, SparseVLM(retain=20)):
        good = prefill(model, inputs)
        with pytest.raises(SparsightError):
            prefill(model, inputs, attention_mask=torch.zeros_like(inputs["attention_mask"]))
        assert passes._CURRENT.get() is None
        assert torch.equal(prefill(model, inputs), good)


REFUSED = {
    "sites": (lambda model: SparseVLM(sites=(3, 99)), SettingError),
    "no method": (lambda model: "sparsevlm", UnsupportedError),
    "kernel": (
        lambda model: model.set_attn_implementation("flex_attention") or SparseVLM(),
        UnsupportedError,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_attach_leaves_no_trace(model, case):
    make, error = REFUSED[case]
    method = make(model)
    before = snapshot(model)
    with pytest.raises(error):
        sparsify(model, method)
    assert snapshot(model) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("step", ["sparsight.engine.attention_reader.attach_tap", "guard_generate"])
def test_an_attach_that_breaks_half_way_leaves_no_trace(model, inputs, monkeypatch, step, error):
    before, calls = snapshot(model), []

    def fail(*given):
        calls.append(given)
        if "tap" in step and len(calls) == 1:  # the second one breaks
            return attach_tap(*given)
        raise error("stop")

    with monkeypatch.context() as patched:
        if "." in step:
            patched.setattr(step, fail)
        else:
            patched.setitem(sparsify.__globals__, step, fail)
        with pytest.raises(error, match="stop"):
            sparsify(model, SparseVLM())
    assert snapshot(model) == before
    with sparsify(model, SparseVLM(retain=0.5)):
        prefill(model, inputs)
    assert snapshot(model) == before


ENCODERS = {  # what is read or changed in the image encoder, and the part that takes the last hook
    "features": (SCOPE(retain=20), "encoder_tap.attach_tap"),
    "merging": (ToMe(retain=20), "encoder_merging.attach_tap"),
}


@pytest.mark.parametrize("case", ENCODERS)
def test_hooks_on_the_encoder_go_when_the_last_one_fails(model, monkeypatch, case):
    method, step = ENCODERS[case]
    before = snapshot(model)

    def fail(*given):
        assert snapshot(model) != before, "nothing is on the model yet, so the test tests nothing"
        raise RuntimeError("stop")

    with monkeypatch.context() as patched:
        patched.setattr(f"sparsight.engine.{step}", fail)
        with pytest.raises(RuntimeError, match="stop"):
            sparsify(model, method)
    assert snapshot(model) == before


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("inner", [True, False])
def test_a_second_attach_is_refused(model, inputs, outer, inner):
    """Also through another handle on the same layers."""
    handles = {True: model, False: model.model}
    with sparsify(handles[outer], SparseVLM(retain=0.5)):
        good, held = prefill(model, inputs), snapshot(model)
        with pytest.raises(AttachError, match="already sparsified"):
            sparsify(handles[inner], SparseVLM(retain=0.2))
        assert snapshot(model) == held
        assert torch.equal(prefill(model, inputs), good)
    with sparsify(handles[inner], SparseVLM(retain=0.5)):
        assert torch.equal(prefill(model, inputs), good)


def test_the_users_own_generate_comes_back(model, inputs):
    own = functools.partial(type(model).generate, model)
    model.generate = own
    with sparsify(model, SparseVLM()):
        model.generate(**inputs, max_new_tokens=2)
    assert vars(model).get("generate") is own


def test_two_models_at_once(model, inputs):
    other = tiny.tiny_llava(seed=1)
    alone = []
    for each, method in ((model, SparseVLM(retain=0.5)), (other, SparseVLMPlus(retain=0.3))):
        with sparsify(each, method):
            alone.append(prefill(each, inputs))
    with (
        sparsify(model, SparseVLM(retain=0.5)) as first,
        sparsify(other, SparseVLMPlus(retain=0.3)) as second,
    ):
        assert torch.equal(prefill(model, inputs), alone[0])
        assert torch.equal(prefill(other, inputs), alone[1])
        assert first.stats.schedules != second.stats.schedules


def at_once(*jobs):
    """Run jobs in threads, started together; return their results in order."""
    results, barrier = [None] * len(jobs), threading.Barrier(len(jobs))

    def work(index, job):
        barrier.wait()
        results[index] = [job() for _ in range(6)]

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("shared", [True, False])
def test_threads_answer_as_if_alone(shared):
    models = [tiny.tiny_llava()] * 2 if shared else [tiny.tiny_llava(), tiny.tiny_llava(seed=1)]
    prompts = [
        tiny.batch([["image", 5]]).inputs,
        tiny.batch([["image", 2, "image", 9]], seed=1).inputs,
    ]
    method = SparseVLM(retain=0.5)

    def answer(index):
        done = models[index].generate(
            **prompts[index], max_new_tokens=4, return_dict_in_generate=True, output_logits=True
        )
        return torch.cat(done.logits)

    with contextlib.ExitStack() as stack:
        for model in set(models):
            stack.enter_context(sparsify(model, method))
        one_by_one = [answer(0), answer(1)]
        together = at_once(lambda: answer(0), lambda: answer(1))
    for alone, results in zip(one_by_one, together, strict=True):
        assert all(torch.equal(alone, result) for result in results)


def test_a_shallow_copy_made_inside_the_block_generates_plainly_after_it(model, inputs):
    with sparsify(model, Uniform(retain=0.5)):
        twin = copy.copy(model)
    wanted = model.generate(**inputs, max_new_tokens=2, use_cache=False)
    assert torch.equal(twin.generate(**inputs, max_new_tokens=2, use_cache=False), wanted)
