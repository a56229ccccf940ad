"""What only a GPU shows: equal answers to the CPU's, counted waits, nothing left in its memory."""

import gc
import warnings

import pytest
import torch

from sparsight import SparseVLM, SparseVLMPlus, sparsify
from sparsight.engine.passes import Pass
from sparsight.methods import (
    DART,
    EADP,
    SIEVE,
    TOPS,
    AutoPrune,
    CDPruner,
    MMTok,
    Pool,
    PyramidDrop,
    Random,
    Restore,
    Uniform,
    VScan,
)
from tests.support import tiny, tiny_rotary

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

METHODS = {
    "keep": SparseVLM(retain=0.5),
    "renumber": SparseVLM(retain=0.5, positions="renumber"),
    "rank": SparseVLM(level="rank", retain=None),
    "plus": SparseVLMPlus(retain=0.5),
    "dart": DART(retain=0.6),
    "autoprune": AutoPrune(retain=0.5),
    "sieve": SIEVE(retain=0.5),
    "ahead": PyramidDrop(retain=0.5),
    "vscan": VScan(retain=0.5),
    "tops": TOPS(retain=0.5),
    "random": Random(retain=0.5),
    "uniform": Uniform(retain=0.3),
    "pool": Pool(retain=0.4),
    "cdpruner": CDPruner(retain=0.4, halves=True),
    "mmtok": MMTok(retain=0.4, skip=tuple(range(4, 40))),
    "eadp": EADP(retain=0.4, centred=True),
    "restore": Restore(retain=0.4),
    "restore inside": Restore(retain=0.5, base=SparseVLM(recycle=False)),
}
CASES = [("llava", name) for name in METHODS]
CASES += [
    (kind, name) for kind in ("qwen2", "qwen3", "gemma3") for name in ("keep", "restore inside")
]


def make(kind, dtype=torch.float64):
    if kind == "llava":
        rows = [["image", 5], ["image", 9]]
        return tiny.tiny_llava(attention="sdpa", dtype=dtype), tiny.batch(rows, dtype=dtype).inputs
    model = tiny_rotary.model(kind, "sdpa", dtype)
    return model, tiny_rotary.batch(kind, tiny_rotary.rows(kind), dtype).inputs


def send(inputs, device):
    return {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in inputs.items()
    }


def list_survivors(sites):
    return [site.survivors.tolist() for site in sites]


@torch.no_grad()
def answer(model, inputs, method):
    with sparsify(model, method) as run:
        options = {"return_dict_in_generate": True, "output_logits": True, "do_sample": False}
        made = model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, **options)
    kept = [list_survivors(sites) for sites in run.trace.samples]
    return made.sequences.cpu(), [logits.cpu() for logits in made.logits], kept


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_answers_are_the_cpus(kind, name):
    model, inputs = make(kind)
    ids, logits, kept = answer(model, inputs, METHODS[name])
    try:
        ids_there, logits_there, kept_there = answer(
            model.to("cuda"), send(inputs, "cuda"), METHODS[name]
        )
    finally:
        model.to("cpu")
    assert kept == kept_there
    assert torch.equal(ids, ids_there)
    # generate() hands logits out in float32
    for here, there in zip(logits, logits_there, strict=True):
        torch.testing.assert_close(here, there, atol=2e-5, rtol=1e-3)


@torch.no_grad()
def waits(model, inputs):
    """Times that one prefill waits for the device, as torch sees it."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")  # switching the mode on warns as well
        torch.cuda.set_sync_debug_mode("warn")
        try:
            model(**inputs, use_cache=True, logits_to_keep=1)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [
        str(one.filename) + ":" + str(one.lineno)
        for one in seen
        if "synchronizing" in str(one.message)
    ]


# eigenvalues are checked on the host, which is counted nowhere
@pytest.mark.parametrize("name", [name for name in METHODS if name != "sieve"])
def test_every_wait_is_counted(name, monkeypatch):
    reads, plain = [], Pass.to_host
    monkeypatch.setattr(Pass, "to_host", lambda state, x: reads.append(1) or plain(state, x))
    model, inputs = make("llava")
    model, inputs = model.to("cuda"), send(inputs, "cuda")
    try:
        dense = waits(model, inputs)
        with sparsify(model, METHODS[name]):
            reads.clear()
            sparse = waits(model, inputs)
    finally:
        model.to("cpu")
    assert len(sparse) - len(dense) <= len(reads), sorted(set(sparse) - set(dense))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_full_retention_is_the_dense_model(dtype):
    model, inputs = make("llava")
    model, inputs = model.to("cuda", dtype), send(inputs, "cuda")
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    with torch.no_grad():
        dense = model(**inputs).logits
        with sparsify(model, SparseVLM(retain=1.0)):
            full = model(**inputs).logits
    model.to("cpu", torch.float64)
    assert torch.equal(dense, full)


@torch.no_grad()
def test_memory_is_given_back():
    model, inputs = make("llava")
    model, inputs = model.to("cuda"), send(inputs, "cuda")

    def once():
        with sparsify(model, SparseVLM(retain=0.5)):
            model.generate(**inputs, max_new_tokens=3, do_sample=False)
        gc.collect()  # a run and its hooks refer to each other
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    first = once()
    assert [once() for _ in range(3)] == [first] * 3
    model.to("cpu")
