"""Models, threads, generators and copies side by side work as if alone, or are refused by name."""

import copy
import io
import pickle
import threading

import pytest
import torch
from transformers import DynamicCache
from transformers.generation.streamers import BaseStreamer

from sparsight import SparseVLM, SparseVLMPlus, sparsify
from sparsight.engine import passes
from sparsight.errors import AttachError
from tests.support import tiny
from tests.support.caches import cached
from tests.support.footprint import snapshot

METHOD = SparseVLM(retain=0.5)


@pytest.fixture(autouse=True)
def no_open_pass():
    yield
    passes._CURRENT.set(None)  # a failing test must not fail the next


@pytest.fixture
def inputs():
    return tiny.batch([["image", 5]]).inputs


@pytest.fixture
def model(inputs):
    return made(0, inputs)


@pytest.fixture
def other(inputs):
    return made(1, inputs)


def made(seed, inputs):
    """Has run once: transformers puts hooks of its own on the vision layers then."""
    model = tiny.tiny_llava(seed=seed)
    model.generate(**inputs, max_new_tokens=2)
    return model


@torch.no_grad()
def prefill(model, inputs):
    return model(**inputs).logits


def alone(model, method, inputs):
    with sparsify(model, method):
        return prefill(model, inputs)


# ---- threads


def test_threads_with_blocks_of_their_own_answer_as_if_alone(model, other, inputs):
    jobs = [(model, METHOD), (other, SparseVLMPlus(retain=0.3))]
    want, before = [alone(*job, inputs) for job in jobs], [snapshot(job[0]) for job in jobs]
    results, barrier = [[], []], threading.Barrier(2)

    def work(index):
        barrier.wait()
        for _ in range(8):
            results[index].append(alone(*jobs[index], inputs))

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for own, expected in zip(results, want, strict=True):
        assert len(own) == 8
        assert all(torch.equal(logits, expected) for logits in own)
    assert [snapshot(job[0]) for job in jobs] == before


def test_a_block_ended_by_another_thread_leaves_no_trace(model, inputs):
    """A broken pass that a thread left behind is forgotten by its next pass of any model."""
    before = snapshot(model)
    run = sparsify(model, METHOD)
    handle = model.model.language_model.norm.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        prefill(model, inputs)
    handle.remove()
    thread = threading.Thread(target=run.detach)
    thread.start()
    thread.join()
    assert snapshot(model) == before
    alone(made(1, inputs), METHOD, inputs)
    assert passes._CURRENT.get() is None, "the pass of a block that has ended is still held"


# ---- nested


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("layer", [0, 4])
@pytest.mark.parametrize("broken", [None, "Exception", "KeyboardInterrupt"])
def test_a_model_inside_another_answers_as_if_alone(model, other, inputs, layer, broken):
    """Also if the inner one breaks, and the outer one goes on."""
    want, inner = alone(model, METHOD, inputs), alone(other, SparseVLMPlus(retain=0.3), inputs)
    seen = []

    def nested(*_):
        if broken is None:
            seen.append(prefill(other, inputs))
            return
        handle = other.model.language_model.layers[5].register_forward_pre_hook(fail)
        with pytest.raises((RuntimeError, KeyboardInterrupt)):
            prefill(other, inputs)
        handle.remove()

    def fail(*_):
        raise RuntimeError if broken == "Exception" else KeyboardInterrupt

    with sparsify(model, METHOD), sparsify(other, SparseVLMPlus(retain=0.3)):
        handle = model.model.language_model.layers[layer].register_forward_pre_hook(nested)
        assert torch.equal(prefill(model, inputs), want)
        handle.remove()
        assert passes._CURRENT.get() is None
        assert torch.equal(prefill(other, inputs), inner)
        assert torch.equal(prefill(model, inputs), want)
    assert all(torch.equal(logits, inner) for logits in seen)


def test_blocks_may_end_in_any_order(model, other, inputs):
    plain = prefill(model, inputs)
    want = alone(other, METHOD, inputs)
    first, second = sparsify(model, METHOD), sparsify(other, METHOD)
    first.detach()
    assert torch.equal(prefill(model, inputs), plain)
    assert torch.equal(prefill(other, inputs), want)
    second.detach()


# ---- interrupted


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupt_in_the_body_leaves_no_trace(model, inputs, error):
    before, plain = snapshot(model), prefill(model, inputs)

    def body():
        with sparsify(model, METHOD):
            prefill(model, inputs)
            raise error

    with pytest.raises(error):
        body()
    assert snapshot(model) == before
    assert torch.equal(prefill(model, inputs), plain)


class Stops(BaseStreamer):
    """Stops an answer after a few tokens."""

    def __init__(self, error):
        self.error, self.left = error, 3

    def put(self, value):
        self.left -= 1
        if not self.left:
            raise self.error

    def end(self):
        pass


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_answer_stopped_half_way_leaves_no_trace(model, inputs, error):
    before, plain = snapshot(model), prefill(model, inputs)
    with sparsify(model, METHOD):
        want = model.generate(**inputs, max_new_tokens=6)
        with pytest.raises(error):
            model.generate(**inputs, max_new_tokens=6, streamer=Stops(error))
        assert passes._CURRENT.get() is None
        assert torch.equal(model.generate(**inputs, max_new_tokens=6), want)
    assert snapshot(model) == before
    assert torch.equal(prefill(model, inputs), plain)


def spoken(model, method, inputs):
    """Say one token after the other, in a block of its own."""
    with sparsify(model, method):
        cache, given = DynamicCache(), inputs
        while True:
            with torch.no_grad():  # not across a yield, or generators in turns leave it on
                token = model(**given, **cached(cache)).logits[:, -1:].argmax(dim=-1)
            yield int(token)
            given = {"input_ids": token}


def test_generators_in_turns_answer_as_if_alone(model, other, inputs):
    before = snapshot(model), snapshot(other)
    want = []
    for each in (model, other):
        words = spoken(each, METHOD, inputs)
        want.append([next(words) for _ in range(6)])
        words.close()
    first, second = spoken(model, METHOD, inputs), spoken(other, METHOD, inputs)
    said = [[next(first), next(first)], [next(second)]]
    with pytest.raises(AttachError, match="already sparsified"):
        next(spoken(model, METHOD, inputs))
    first.close()
    assert snapshot(model) == before[0]
    said[1] += [next(second) for _ in range(5)]
    del second  # nobody closes it
    assert snapshot(other) == before[1]
    assert said == [want[0][:2], want[1]]


# ---- copies

COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "torch.save": lambda part: torch.save(part, io.BytesIO()),
}


@pytest.mark.parametrize(
    "part", ["", "model", "model.language_model", "model.language_model.layers.2"]
)
@pytest.mark.parametrize("way", COPIES)
def test_a_copy_made_inside_the_block_is_refused(inputs, way, part):
    """Its hooks would be the original's, and so would its generate()."""
    model = tiny.tiny_llava()  # once it has run, transformers' own hooks cannot be pickled either
    before = snapshot(model)
    with sparsify(model, METHOD), pytest.raises(AttachError, match=r"detach\(\) first"):
        COPIES[way](model.get_submodule(part))
    assert snapshot(model) == before
    COPIES[way](model.get_submodule(part))
    twin = copy.deepcopy(model)
    assert torch.equal(prefill(twin, inputs), prefill(model, inputs))
    want = alone(model, METHOD, inputs)
    with sparsify(twin, METHOD):
        assert torch.equal(prefill(twin, inputs), want)


def test_weights_are_saved_inside_the_block(model, inputs, tmp_path):
    plain = prefill(model, inputs)
    with sparsify(model, METHOD):
        weights = model.state_dict()
        model.save_pretrained(tmp_path)
    assert list(weights) == list(model.state_dict())
    again = type(model).from_pretrained(tmp_path, dtype=model.dtype)
    assert torch.equal(prefill(again, inputs), plain)
