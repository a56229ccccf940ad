"""Models with other positions or masks than LLaVA's: the contract, and pruned equals masked."""

import pytest
import torch
from transformers import DynamicCache

from sparsight import sparsify
from sparsight.engine.compat import output_cache
from sparsight.methods import Pool, SparseVLM, Uniform
from tests.support import contract, hidden, tiny_rotary
from tests.support.caches import cached
from tests.support.cases import Identity, same
from tests.support.tiny_rotary import FIRST, IMAGE, KINDS, PAIRS, QWEN, VIDEO, VOCAB

METHODS = {
    "sparsevlm": SparseVLM(retain=0.5, positions="keep"),
    "sum": SparseVLM(
        retain=0.45, positions="keep", aggregate="sum", tau=0.6, theta=0.3, sites=(1, 4)
    ),
    "rank": SparseVLM(level="rank", retain=None, positions="keep"),
    "no recycling": SparseVLM(retain=0.6, positions="keep", recycle=False, sites=(3, 6)),
    "uniform": Uniform(retain=0.4),
    "uniform inside": Uniform(retain=0.5, sites=(0, 1, 5)),
    "pool": Pool(retain=0.4),
}


def videos(kind):
    """Return ragged samples of videos and images; GLM cannot mix the two and gets no images."""
    if kind == "glm4v":
        return [[("video", 3, 2, 3), 6], [2, ("video", 2, 3, 2), 3, ("video", 1, 4, 2), 5], [20]]
    return [
        [("video", 3, 2, 3), 6],
        [2, ("image", 2, 3), 3, ("video", 2, 3, 2), 2, ("image", 4, 2), 5],
        [20],
    ]


def want(kind, method, alone, run, *, said=(), sample=0, length=None):
    """Return float64 logits of a prompt and its answer, dropped tokens masked; check the scores."""
    model = tiny_rotary.model(kind, "eager", torch.float64)
    inputs = {
        name: part.double() if part.is_floating_point() else part for name, part in alone.items()
    }
    inputs = tiny_rotary.longer(kind, inputs, list(said))
    steps, raters = run.trace.samples[sample], run.trace.raters[sample]
    own = alone["input_ids"].shape[1]
    raters = raters - (
        (length or own) - own
    )  # a trace counts the padding of a batch of this length
    result, scores = hidden.run(
        model, inputs, steps, raters, aggregate=getattr(method, "aggregate", "mean")
    )
    if isinstance(method, SparseVLM):
        for step, score in zip(steps, scores, strict=True):
            torch.testing.assert_close(step.score.double(), score.double(), rtol=1e-3, atol=1e-6)
    return result


def close(got, wanted, message):
    contract.close(got, wanted.to(got.dtype), message)


def generate(model, inputs, **settings):
    words = {"max_new_tokens": 4, "suppress_tokens": [IMAGE, VIDEO]}
    settings = {**words, "return_dict_in_generate": True, "output_logits": True, **settings}
    return model.generate(**inputs, **settings)


# one method that reads attention, one at the input and one that merges on every model; the others
# on one with M-RoPE and DeepStack, and on one with windows and bidirectional blocks
REPRESENTATIVES = ("no recycling", "uniform", "sparsevlm")
OTHERS = [method for method in METHODS if method not in REPRESENTATIVES]
CASES = [
    *((*pair, method) for pair in PAIRS for method in REPRESENTATIVES),
    *((kind, "sdpa", method) for kind in ("qwen3", "gemma3") for method in OTHERS),
]


@pytest.mark.parametrize(("kind", "kernel", "method"), CASES)
def test_models_keep_the_contract(kind, kernel, method):
    model = tiny_rotary.model(kind, kernel)
    batch = tiny_rotary.batch(kind, [*tiny_rotary.rows(kind), [12]], model.dtype)
    contract.check(model, METHODS[method], batch)


@pytest.mark.parametrize("kind", QWEN)
def test_models_keep_the_contract_with_videos(kind):
    model = tiny_rotary.model(kind)
    batch = tiny_rotary.batch(kind, videos(kind), model.dtype)
    for name in ("sparsevlm", "uniform inside", "pool"):
        contract.check(model, METHODS[name], batch)


@pytest.mark.parametrize(("kind", "kernel"), PAIRS)
def test_keeping_everything_is_bit_identical(kind, kernel):
    model = tiny_rotary.model(kind, kernel)
    inputs = tiny_rotary.batch(kind, tiny_rotary.rows(kind), model.dtype).inputs
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        plain, said = model(**inputs).logits, generate(model, inputs)
        for method in (SparseVLM(retain=1.0, positions="keep"), Identity(positions="keep")):
            with sparsify(model, method) as run:
                assert torch.equal(model(**inputs).logits[real], plain[real])
                own = generate(model, inputs)
            assert same(own, said)
        assert [len(steps) for steps in run.trace.samples] == [len(run.stats.sites)] * len(real)


@pytest.mark.parametrize(("kind", "kernel", "method"), CASES)
@pytest.mark.mode("greedy")
def test_pruned_equals_masked(kind, kernel, method):
    """A ragged batch, its prefill and every word of a greedy answer."""
    model, method = tiny_rotary.model(kind, kernel), METHODS[method]
    check_masked(kind, model, method, tiny_rotary.batch(kind, tiny_rotary.rows(kind), model.dtype))


@pytest.mark.parametrize("method", ["sparsevlm", "uniform inside", "pool"])
@pytest.mark.parametrize("kind", QWEN)
def test_pruned_equals_masked_with_videos(kind, method):
    model = tiny_rotary.model(kind)
    check_masked(kind, model, METHODS[method], tiny_rotary.batch(kind, videos(kind), model.dtype))


def check_masked(kind, model, method, batch):
    start = batch.inputs["input_ids"].shape[1]
    with sparsify(model, method) as run, torch.no_grad():
        logits = model(**batch.inputs).logits
        first = run.trace
        done = generate(model, batch.inputs)
        for before, after in zip(first.samples, run.trace.samples, strict=True):
            assert [s.keep.tolist() for s in before] == [s.keep.tolist() for s in after], (
                "generate keeps other tokens"
            )
    for b, own in enumerate(batch.alone):
        said = done.sequences[b, start:].tolist()
        wanted = want(kind, method, own, run, said=said[:-1], sample=b, length=start)
        left = run.stats.tokens_per_layer[b][-1]
        close(logits[b, -left:], wanted[:left], f"prefill of sample {b}")
        answer = torch.stack([step[b] for step in done.logits]).to(model.dtype)
        close(answer, wanted[left - 1 :], f"answer of sample {b}")


@pytest.mark.parametrize(("kind", "kernel"), PAIRS)
@pytest.mark.mode("a hand-written loop")
def test_a_manual_loop_and_a_second_turn_equal_masked(kind, kernel):
    """No mask and no positions: an answer token by token, then a turn of several tokens."""
    model, method = tiny_rotary.model(kind, kernel), METHODS["sparsevlm"]
    own = tiny_rotary.batch(kind, [[2, tiny_rotary.image(kind, 3, 5), 7]], model.dtype).alone[0]
    said = torch.randint(FIRST, VOCAB, (9,), generator=torch.Generator().manual_seed(1))
    cache, prompt = (
        DynamicCache(config=model.config),
        {k: v for k, v in own.items() if k != "attention_mask"},
    )
    with sparsify(model, method) as run, torch.no_grad():
        parts = [model(**prompt, **cached(cache)).logits]
        for part in (said[:1], said[1:2], said[2:8], said[8:]):
            parts.append(model(input_ids=part[None], **cached(cache)).logits)
    wanted = want(kind, method, own, run, said=said.tolist())
    close(torch.cat(parts, dim=1)[0], wanted, "manual loop")


@pytest.mark.parametrize(("kind", "kernel"), PAIRS)
def test_a_second_turn_in_generate_equals_masked(kind, kernel):
    model, method = tiny_rotary.model(kind, kernel), METHODS["no recycling"]
    own = tiny_rotary.batch(kind, [[2, tiny_rotary.image(kind, 3, 5), 7]], model.dtype).alone[0]
    length = own["input_ids"].shape[1]
    with sparsify(model, method) as run:
        first = generate(model, own)
        ids = torch.cat([first.sequences, torch.tensor([[20, 21, 22]])], dim=1)
        second = generate(
            model,
            {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
            **cached(output_cache(first)),
        )
    said = second.sequences[0, length:].tolist()
    wanted = want(kind, method, own, run, said=said[:-1])
    close(torch.cat(second.logits).to(model.dtype), wanted[-4:], "second turn")


@pytest.mark.parametrize(("kind", "kernel"), PAIRS)
@pytest.mark.mode("beam search")
def test_beams_score_as_masked(kind, kernel):
    model, method = tiny_rotary.model(kind, kernel), METHODS["sparsevlm"]
    batch = tiny_rotary.batch(
        kind,
        [[tiny_rotary.image(kind, 4, 4), 9], [3, tiny_rotary.image(kind, 3, 4), 4]],
        model.dtype,
    )
    with sparsify(model, method) as run:
        done = generate(model, batch.inputs, num_beams=2, length_penalty=0.0, output_scores=True)
    start = batch.inputs["input_ids"].shape[1]
    for b, own in enumerate(batch.alone):
        said = done.sequences[b, start:].tolist()
        wanted = want(kind, method, own, run, said=said[:-1], sample=2 * b, length=start)[
            -len(said) :
        ]
        score = float(wanted.log_softmax(dim=-1).gather(1, torch.tensor(said)[:, None]).sum())
        assert abs(score - float(done.sequences_scores[b])) < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_text_only_prompt_is_untouched(kind):
    model = tiny_rotary.model(kind, "eager")
    inputs = tiny_rotary.batch(kind, [[9], [17]], model.dtype).inputs
    plain = generate(model, inputs)
    with sparsify(model, METHODS["sparsevlm"]):
        own = generate(model, inputs)
    assert same(own, plain)
