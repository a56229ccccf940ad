"""The embedded model, whose image encoder vLLM's own LLaVA does not know, gives a real answer."""

from pathlib import Path

import pytest
from PIL import Image

from sparsight.models.embedded import is_prepared, load
from tests.serve.vllm.engines.conftest import CASES
from tests.support.vllm_engine import LENGTH, LlavaReference, Request, ask, engine, said

CASE = CASES["backend"]
SCENE = Path(__file__).parents[4] / "examples" / "scene.png"


@pytest.mark.embedded
@pytest.mark.skipif(
    not is_prepared(), reason="the embedded model is not prepared; run `sparsight prepare`"
)
def test_the_embedded_model_answers_as_in_transformers(tmp_path):
    model, processor = load()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    reference = LlavaReference(model, processor, model.config.image_token_id)
    turn = {
        "role": "user",
        "content": [{"type": "image"}, {"type": "text", "text": "What color is the fish?"}],
    }
    text = processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
    image = Image.open(SCENE).convert("RGB")
    requests = [Request(text, (image,), retain) for retain in (64, 192, 1.0)]
    wanted = [reference.answer(request, CASE.method("sparsight")) for request in requests]
    with engine(tmp_path, CASE.architecture, {"method": "sparsight"}) as llm:
        outputs = ask(llm, requests)
    assert said(outputs) == wanted
    lengths = [len(output.prompt_token_ids) for output in outputs]
    assert [length - lengths[0] for length in lengths] == [0, 192 - 64, 576 - 64]
    words = [processor.decode(answer, skip_special_tokens=True) for answer in wanted]
    assert all(len(answer) == LENGTH for answer in wanted)
    assert any("blue" in word or "fish" in word for word in words), words
