"""LLaVA in vLLM's backend for transformers, and the embedded model, which gives a real answer.

That backend changes classes of transformers for the process. So these tests run last, and work out
all true answers before an engine starts.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sparsight.models.embedded import is_prepared, load
from tests.serve.vllm.engines.conftest import CASES, CHUNK
from tests.serve.vllm.engines.test_equality import DEFAULT, requests_of
from tests.support.vllm_engine import LENGTH, LlavaReference, Request, ask, engine, said

CASE = CASES["backend"]
SCENE = Path(__file__).parents[4] / "examples" / "scene.png"


TURN = {
    "role": "user",
    "content": [{"type": "image"}, {"type": "text", "text": "What color is the fish?"}],
}
METHODS = ("sparsight", "cdpruner")


@pytest.fixture(scope="module")
def truth(reference_of):
    """Answers of transformers, by method."""
    wanted = {}
    for name in METHODS:
        method = CASE.method(name)
        wanted[name] = [
            reference_of("backend").answer(replace(one, retain=one.retain or DEFAULT), method)
            for one in requests_of("backend")
        ]
    return wanted


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Folder, requests, answers and processor of the embedded model; None if it is not there."""
    if not is_prepared():
        return None
    folder = tmp_path_factory.mktemp("embedded")
    model, processor = load()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    reference = LlavaReference(model, processor, model.config.image_token_id)
    text = processor.apply_chat_template([TURN], add_generation_prompt=True, tokenize=False)
    image = Image.open(SCENE).convert("RGB")
    requests = [Request(text, (image,), retain) for retain in (64, 192, 1.0)]
    wanted = [reference.answer(request, CASE.method("sparsight")) for request in requests]
    return folder, requests, wanted, processor


@pytest.mark.parametrize("method", METHODS)
def test_in_a_batch_again_and_one_by_one(method, truth, real, folder_of):
    del real  # made before the engine
    requests, wanted = requests_of("backend"), truth[method]
    given = {"method": method, "retain": DEFAULT}
    chunks = {"max_num_batched_tokens": CHUNK, "long_prefill_token_threshold": CHUNK}
    with engine(folder_of("backend"), CASE.architecture, given, **chunks) as llm:
        assert said(ask(llm, requests)) == wanted
        assert said(ask(llm, requests)) == wanted
        assert llm.reset_prefix_cache()
        for request, answer in zip(requests, wanted, strict=True):
            assert said(ask(llm, [request])) == [answer]


@pytest.mark.embedded
@pytest.mark.skipif(
    not is_prepared(), reason="the embedded model is not prepared; run `sparsight prepare`"
)
def test_the_embedded_model_answers_as_in_transformers(real):
    folder, requests, wanted, processor = real
    with engine(folder, CASE.architecture, {"method": "sparsight"}) as llm:
        outputs = ask(llm, requests)
    assert said(outputs) == wanted
    lengths = [len(output.prompt_token_ids) for output in outputs]
    assert [length - lengths[0] for length in lengths] == [0, 192 - 64, 576 - 64]
    words = [processor.decode(answer, skip_special_tokens=True) for answer in wanted]
    assert all(len(answer) == LENGTH for answer in wanted)
    assert any("blue" in word or "fish" in word for word in words), words
