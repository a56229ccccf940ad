"""Words of a request guide the choice, and are part of an image's key in every cache."""

from dataclasses import replace

import pytest

from sparsight.serve.vllm.settings import GUIDE
from tests.serve.vllm.engines.conftest import CASES
from tests.support.vllm_engine import Request, ask, engine, picture, said

CASE = CASES["llava"]
BLOCK = 32  # tokens of a block in the prefix cache
IMAGE = picture(7, 112, 112)
OTHER = picture(8, 112, 112)
QUESTIONS = ("what color is w60", "w70 w71 w72 w73 w74", "is the shape w80 ?", "w90 w91 w200")
KEPT = 40


def prompt(question):
    return f"USER : <image> {question} ASSISTANT :"


@pytest.fixture(scope="module")
def llm(folder_of):
    given = {"method": "cdpruner", "retain": KEPT}
    with engine(folder_of("llava"), CASE.architecture, given) as made:
        yield made


@pytest.fixture(scope="module")
def truth(reference_of):
    method = replace(CASE.method("cdpruner"), retain=KEPT)

    def get(text, *images, behind=None):
        request = Request(text, images, KEPT)
        return reference_of("llava").answer(request, method, behind)

    return get


def answers(llm, questions):
    """Answers to questions about one image, one after the other."""
    outputs = []
    for question in questions:
        outputs += ask(llm, [Request(prompt(question), (IMAGE,))])
    return outputs


def test_each_question_about_one_image_gets_its_own_tokens(llm, truth):
    wanted = [truth(prompt(question), IMAGE) for question in QUESTIONS]
    assert said(answers(llm, QUESTIONS)) == wanted
    again = answers(llm, QUESTIONS)
    assert said(again) == wanted
    assert min(output.num_cached_tokens for output in again) >= BLOCK


def test_without_the_words_in_the_key_answers_are_wrong(llm, truth, monkeypatch):
    """The test above can fail."""
    from sparsight.serve.vllm.processing import SparseProcessor

    honest = SparseProcessor._get_mm_hashes

    def forget(self, inputs):
        given = {key: value for key, value in inputs.hf_processor_mm_kwargs.items() if key != GUIDE}
        return honest(self, replace(inputs, hf_processor_mm_kwargs=given))

    monkeypatch.setattr(SparseProcessor, "_get_mm_hashes", forget)
    wanted = [truth(prompt(question), IMAGE) for question in QUESTIONS]
    assert said(answers(llm, QUESTIONS)) != wanted


def test_an_image_keeps_its_tokens_when_the_conversation_goes_on(llm, truth):
    first = prompt(QUESTIONS[0])
    guide = f" {QUESTIONS[0]} ASSISTANT :"
    later = f"{first} w55 w56 </s> USER : w57 w58 ? ASSISTANT :"
    ask(llm, [Request(first, (IMAGE,))])
    (output,) = ask(llm, [Request(later, (IMAGE,))])
    assert output.num_cached_tokens >= BLOCK
    assert said([output]) == [truth(later, IMAGE, behind=guide)]


def test_a_later_image_does_not_change_the_key_of_an_earlier_one(llm):
    first = prompt(QUESTIONS[1])
    later = f"{first} w55 </s> USER : <image> w57 w58 ? ASSISTANT :"
    ask(llm, [Request(first, (IMAGE,))])
    (output,) = ask(llm, [Request(later, (IMAGE, OTHER))])
    assert output.num_cached_tokens >= BLOCK


def test_a_client_cannot_send_the_words(llm):
    request = Request(prompt(QUESTIONS[0]), (IMAGE,)).given()
    for key in (GUIDE, "sparsight_keep"):
        with pytest.raises(ValueError, match="is not known"):
            llm.generate([{**request, "mm_processor_kwargs": {key: [[1, 2]]}}], use_tqdm=False)
    assert said(answers(llm, QUESTIONS[:1]))


def test_an_image_behind_its_question_is_refused(llm, truth):
    with pytest.raises(ValueError, match="no text follows the last image"):
        ask(llm, [Request("USER : what color is the shape ? <image>", (IMAGE,))])
    question = QUESTIONS[2]
    assert said(answers(llm, [question])) == [truth(prompt(question), IMAGE)]
