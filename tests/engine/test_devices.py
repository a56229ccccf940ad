"""Models over several devices: all inputs of a layer follow it, and answers are bit-identical."""

import copy

import pytest
import torch
from transformers import DynamicCache

from sparsight import SparseVLM, SparseVLMPlus, sparsify
from sparsight.methods import DART, SIEVE, PyramidDrop, Random, Restore, Uniform
from tests.support import contract, tiny, tiny_rotary
from tests.support.caches import cached
from tests.support.two_devices import FIRST, SECOND, Places, put, send

METHODS = {
    "renumber": SparseVLM(retain=0.5, positions="renumber"),
    "keep": SparseVLM(retain=0.5),
    "plus": SparseVLMPlus(retain=0.5),
    "dart": DART(retain=0.6),
    "sieve": SIEVE(retain=0.5),
    "ahead": PyramidDrop(retain=0.5),  # its first site is the first layer on the second device
    "random": Random(retain=0.5),
    "uniform inside": Uniform(retain=0.5, sites=(0, 3, 5)),
    "restore": Restore(retain=0.5, base=Random(sites=(0, 3, 5))),
}
CASES = [("llava", "eager", "keep"), *(("llava", "sdpa", method) for method in METHODS)]
CASES += [
    (kind, "sdpa", "keep") for kind in ("qwen2", "qwen2_sliding", "qwen3", "gemma3", "paligemma")
]


def tiny_model(kind, kernel):
    if kind == "llava":
        return tiny.tiny_llava(attention=kernel, dtype=torch.float32), tiny.batch
    return tiny_rotary.model(kind, kernel, torch.float32), None


def split(model, layer=2):
    """Put the layers from `layer` on, and what follows them, on the second device."""
    decoder = contract.decoder_of(model)
    for index, module in enumerate(decoder.layers):
        put(module, FIRST if index < layer else SECOND)
    put(decoder.embed_tokens, FIRST)
    put(decoder.rotary_emb, FIRST)
    put(decoder.norm, SECOND)
    put(model.lm_head, SECOND)
    for module in model.model.children():
        if module is not decoder:
            put(module, FIRST)
    return model


@torch.no_grad()
def turns(model, inputs, place):
    """Logits of a prompt, of two steps, and of a second turn of unequal length."""
    mask, cache = inputs["attention_mask"], DynamicCache(config=model.config)
    parts = [model(**send({**inputs, "position_ids": None}, place), **cached(cache)).logits]
    for new in (torch.ones(2, 1), torch.ones(2, 1), torch.tensor([[1, 1, 1], [0, 1, 1]])):
        mask = torch.cat([mask, new.long()], dim=1)
        ids = torch.full(new.shape, 9)
        given = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": contract.positions(mask)[:, -ids.shape[1] :],
        }
        parts.append(model(**send(given, place), **cached(cache)).logits)
    return [part.cpu() for part in parts]


@pytest.mark.parametrize(("kind", "kernel", "method"), CASES)
@pytest.mark.mode("`device_map` over several devices")
def test_two_devices_give_the_same_bits(kind, kernel, method):
    model, batch = tiny_model(kind, kernel)
    if batch is None:
        inputs = tiny_rotary.batch(kind, tiny_rotary.rows(kind), model.dtype).inputs
    else:
        inputs = batch([["image", 5], ["image", 2, "image", 6]], dtype=model.dtype).inputs
    with sparsify(model, METHODS[method]):
        want = turns(model, inputs, torch.device("cpu"))
    spread = split(copy.deepcopy(model))
    with Places(), sparsify(spread, METHODS[method]):
        got = turns(spread, inputs, FIRST)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_tensors_of_two_devices_do_not_meet():
    """The check bites."""
    here, there = (torch.ones(2), torch.ones(2))
    spread = torch.nn.Linear(2, 2)
    put(spread, FIRST)
    with Places():
        assert spread(here).device == FIRST
        with pytest.raises(RuntimeError, match="meet"):
            spread(here) + there.to(SECOND)


@pytest.mark.filterwarnings(
    "ignore:You are calling .generate"
)  # before 5.18 transformers asks offloaded weights
@pytest.mark.parametrize("method", ["keep", "ahead"])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.mode("accelerate's offload hooks")
def test_offloaded_weights_answer_alike(inside, method):
    accelerate = pytest.importorskip("accelerate")
    model = tiny.tiny_llava(dtype=torch.float32)
    inputs = tiny.batch([["image", 6]], dtype=model.dtype).inputs
    plain = model.generate(**inputs, max_new_tokens=4)
    with sparsify(model, METHODS[method]):
        want = model.generate(**inputs, max_new_tokens=4)
    if not inside:
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    with sparsify(model, METHODS[method]):
        if inside:
            accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        assert torch.equal(model.generate(**inputs, max_new_tokens=4), want)
    assert torch.equal(model.generate(**inputs, max_new_tokens=4), plain)
