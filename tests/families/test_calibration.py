"""Calibrated attention on models with other positions or masks than LLaVA's: against dense runs."""

import pytest
import torch

from sparsight import sparsify
from sparsight.methods import DivPrune, Restore, SparseVLM
from tests.support import contract, hidden, tiny_rotary
from tests.support.tiny_rotary import IMAGE, PAIRS, VIDEO

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
