"""Calibrated attention on models with other positions or masks than LLaVA's: against dense runs."""

import pytest
import torch
from transformers import DynamicCache

from sparsight import sparsify
from sparsight.methods import DivPrune, Restore, SparseVLM
from tests.support import contract, hidden, tiny_rotary
from tests.support.caches import cached
from tests.support.tiny_rotary import FIRST, IMAGE, PAIRS, VIDEO, VOCAB

METHODS = {
    "restore": Restore(retain=0.4, base=DivPrune()),
    "restore inside": Restore(retain=0.5, base=SparseVLM(recycle=False), c=1.2, gamma=0.3),
    "sparsevlm": SparseVLM(retain=0.45, theta=0.05, calibrate=True),
}
# every kind of position, window and block, with both kernels; deeper methods on three of them
CASES = [
    *((*pair, "restore") for pair in PAIRS),
    *((kind, "sdpa", method) for kind in ("qwen25", "qwen3", "gemma3") for method in METHODS),
]


def want(kind, method, alone, run, *, said=(), sample=0, length=None):
    """Float64 logits of a prompt and its answer, dropped tokens masked, biases added."""
    model = tiny_rotary.model(kind, "eager", torch.float64)
    inputs = {
        name: part.double() if part.is_floating_point() else part for name, part in alone.items()
    }
    own = alone["input_ids"].shape[1]
    raters = run.trace.raters[sample] - ((length or own) - own)
    aggregate = "by size" if isinstance(method, Restore) else "mean"
    return hidden.run(
        model,
        tiny_rotary.longer(kind, inputs, list(said)),
        run.trace.samples[sample],
        raters,
        aggregate=aggregate,
        calibrated=(method, own),
    )[0]


def close(got, wanted, message):
    contract.close(got, wanted.to(got.dtype), message)


@pytest.mark.parametrize(("kind", "kernel", "method"), dict.fromkeys(CASES))
def test_calibrated_equals_dense(kind, kernel, method):
    """A ragged batch, its prefill and every word of a greedy answer."""
    model, method = tiny_rotary.model(kind, kernel), METHODS[method]
    batch = tiny_rotary.batch(kind, tiny_rotary.rows(kind), model.dtype)
    start = batch.inputs["input_ids"].shape[1]
    with sparsify(model, method) as run, torch.no_grad():
        logits = model(**batch.inputs).logits
        done = model.generate(
            **batch.inputs,
            max_new_tokens=4,
            suppress_tokens=[IMAGE, VIDEO],
            return_dict_in_generate=True,
            output_logits=True,
        )
    for b, own in enumerate(batch.alone):
        said = done.sequences[b, start:].tolist()
        wanted = want(kind, method, own, run, said=said[:-1], sample=b, length=start)
        left = run.stats.tokens_per_layer[b][-1]
        close(logits[b, -left:], wanted[:left], f"prefill of sample {b}")
        answer = torch.stack([step[b] for step in done.logits]).to(model.dtype)
        close(answer, wanted[left - 1 :], f"answer of sample {b}")


LATER = [("qwen25", "sdpa"), ("qwen25", "eager"), ("qwen3", "sdpa"), ("qwen2_sliding", "sdpa")]


@pytest.mark.parametrize(("kind", "kernel"), [*LATER, ("gemma3", "eager")])
@pytest.mark.parametrize("method", ["restore", "restore inside"])
def test_a_loop_and_a_later_turn_equal_dense(kind, kernel, method):
    """An answer token by token, then a turn of several tokens, to which sizes alone add."""
    model, method = tiny_rotary.model(kind, kernel), METHODS[method]
    row = [2, tiny_rotary.image(kind, 3, 5), 7]
    own = tiny_rotary.batch(kind, [row], model.dtype).alone[0]
    said = torch.randint(FIRST, VOCAB, (9,), generator=torch.Generator().manual_seed(1))
    prompt = {name: part for name, part in own.items() if name != "attention_mask"}
    cache = DynamicCache(config=model.config)
    with sparsify(model, method) as run, torch.no_grad():
        parts = [model(**prompt, **cached(cache)).logits]
        for part in (said[:1], said[1:2], said[2:8], said[8:]):
            parts.append(model(input_ids=part[None], **cached(cache)).logits)
    wanted = want(kind, method, own, run, said=said.tolist())
    close(torch.cat(parts, dim=1)[0], wanted, "a loop")


@pytest.mark.parametrize(("kind", "kernel"), LATER)
def test_beams_score_as_dense(kind, kernel):
    model, method = tiny_rotary.model(kind, kernel), METHODS["restore inside"]
    rows = [
        [tiny_rotary.image(kind, 4, 4), 9],
        [3, tiny_rotary.image(kind, 3, 4), 4],
    ]
    batch = tiny_rotary.batch(kind, rows, model.dtype)
    with sparsify(model, method) as run:
        done = model.generate(
            **batch.inputs,
            max_new_tokens=4,
            suppress_tokens=[IMAGE, VIDEO],
            num_beams=2,
            length_penalty=0.0,
            return_dict_in_generate=True,
            output_scores=True,
        )
    start = batch.inputs["input_ids"].shape[1]
    for b, own in enumerate(batch.alone):
        said = done.sequences[b, start:].tolist()
        wanted = want(kind, method, own, run, said=said[:-1], sample=2 * b, length=start)
        wanted = wanted[-len(said) :].log_softmax(dim=-1)
        score = float(wanted.gather(1, torch.tensor(said)[:, None]).sum())
        assert abs(score - float(done.sequences_scores[b])) < 1e-3
