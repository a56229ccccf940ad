"""vLLM answers as transformers does with the same tokens cut, in every mode."""

from dataclasses import replace

import pytest
import torch

from sparsight import sparsify
from sparsight.serve.vllm.settings import OFFERED
from tests.serve.vllm.engines.conftest import CASES, CHUNK
from tests.support.vllm_engine import LENGTH, Request, ask, picture, said

PAIRS = [(family, method) for family in CASES if family != "backend" for method in OFFERED]
NAMES = [f"{family}-{method}" for family, method in PAIRS]
pytestmark = pytest.mark.parametrize("running", PAIRS, ids=NAMES, indirect=True)
DEFAULT = 16
BUDGETS = (1, 16, 0.25, 40, 1.0, 10**9)


def requests_of(family):
    """One image at every budget, two in both orders, and the server's budget."""
    case = CASES[family]
    first, second = (picture(seed, *size) for seed, size in enumerate(case.sizes, 1))
    one = f"USER : {case.shown} what color is the shape ? w50 ASSISTANT :"
    two = f"USER : {case.shown} w40 {case.shown} what color is w60 the shape ? ASSISTANT :"
    made = [Request(one, (first,), retain) for retain in BUDGETS]
    made += [Request(two, (first, second), 5), Request(two, (second, first), 0.5)]
    return [*made, Request(one, (second,))]


@pytest.fixture(scope="module")
def truth(reference_of):
    """Requests of a family and the answers that transformers gives, by family and method."""
    made = {}

    def get(family, method):
        if (family, method) not in made:
            reference, wanted = reference_of(family), []
            for request in requests_of(family):
                budget = replace(request, retain=request.retain or DEFAULT)
                wanted.append(reference.answer(budget, CASES[family].method(method)))
            made[family, method] = wanted
        return made[family, method]

    return get


def test_in_a_batch_of_unlike_budgets_and_again(running, truth):
    wanted, requests = truth(running.family, running.method), requests_of(running.family)
    assert said(ask(running.llm, requests)) == wanted
    again = ask(running.llm, requests)
    assert said(again) == wanted
    assert sum(output.num_cached_tokens for output in again) >= CHUNK
    assert len({tuple(answer) for answer in wanted}) > len(wanted) // 2, "answers tell nothing"


def test_one_by_one_in_reverse_from_an_empty_cache(running, truth):
    assert running.llm.reset_prefix_cache()
    wanted, requests = truth(running.family, running.method), requests_of(running.family)
    pairs = list(zip(requests, wanted, strict=True))
    for request, answer in reversed(pairs):
        assert said(ask(running.llm, [request])) == [answer]


def test_the_prompt_is_as_short_as_promised(running, reference_of):
    case, reference = CASES[running.family], reference_of(running.family)
    requests = requests_of(running.family)
    for request, output in zip(requests, ask(running.llm, requests), strict=True):
        inputs = reference.processor(
            text=request.text, images=list(request.images), return_tensors="pt"
        )
        ids = inputs["input_ids"][0]
        sizes = reference.count_tokens(inputs, (ids == case.image).nonzero().flatten())
        retain = request.retain or DEFAULT
        kept = sum(
            min(size, retain) if isinstance(retain, int) else int(size * retain) for size in sizes
        )
        assert len(output.prompt_token_ids) == len(ids) - sum(sizes) + kept


def test_text_alone_is_answered(running, reference_of):
    request = Request("USER : what color is the shape ? ASSISTANT :")
    wanted = reference_of(running.family).answer(request, CASES[running.family].method("uniform"))
    assert said(ask(running.llm, [request])) == [wanted]


def test_the_library_itself_answers_the_same(running, reference_of):
    case, reference = CASES[running.family], reference_of(running.family)
    request = requests_of(running.family)[1]
    positions = "keep" if case.space == "features" else "renumber"
    method = replace(case.method(running.method), retain=request.retain, positions=positions)
    inputs = reference.processor(
        text=request.text, images=list(request.images), return_tensors="pt"
    )
    reference.model.generation_config.eos_token_id = None
    with torch.no_grad(), sparsify(reference.model, method):
        output = reference.model.generate(
            **inputs, max_new_tokens=LENGTH, min_new_tokens=LENGTH, do_sample=False
        )
    answer = output[0, inputs["input_ids"].shape[1] :].tolist()
    assert said(ask(running.llm, [request])) == [answer]
