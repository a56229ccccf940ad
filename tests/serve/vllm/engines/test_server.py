"""vLLM's OpenAI server: budgets of the server and of requests."""

import base64
import io
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.serve.vllm.engines.conftest import CASES
from tests.support.vllm_engine import picture
from tests.support.vllm_server import STOPPING, server

CASE = CASES["llava"]
SERVED = {"method": "sparsight", "retain": 16}
QUESTION = "what color is the shape ?"
TRUST = "--trust-request-mm-kwargs"
AROUND = 2 + 6 + 2  # "USER :", the question and "ASSISTANT :"


def data_url(seed):
    written = io.BytesIO()
    picture(seed, 112, 112).save(written, "PNG")
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()


def budget(retain):
    return {"mm_processor_kwargs": {"sparsight_retain": retain}}


@pytest.fixture(scope="module")
def trusting(folder_of, tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "log"
    with server(folder_of("llava"), CASE.architecture, SERVED, TRUST, log=log) as running:
        yield running


def test_the_server_s_budget_and_that_of_a_request(trusting):
    status, answer = trusting.chat(data_url(1), QUESTION)
    assert (status, answer["usage"]["prompt_tokens"]) == (200, AROUND + 16)
    status, answer = trusting.chat(data_url(1), QUESTION, **budget(5))
    assert (status, answer["usage"]["prompt_tokens"]) == (200, AROUND + 5)


def test_twelve_requests_at_once_with_twelve_budgets(trusting):
    budgets = [1, 2, 3, 5, 8, 13, 21, 34, 55, 64, 0.5, 0.25]
    counts = [*budgets[:10], 32, 16]
    url = data_url(2)

    def send(retain):
        return trusting.chat(url, QUESTION, **budget(retain))

    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(send, budgets))
    assert [status for status, _ in together] == [200] * 12
    assert [a["usage"]["prompt_tokens"] for _, a in together] == [AROUND + n for n in counts]
    for retain, (_, answer) in zip(budgets, together, strict=True):
        _, alone = send(retain)
        assert alone["choices"][0]["message"] == answer["choices"][0]["message"]


@pytest.mark.parametrize("value", [0, -3, "x", True, 2.5, None])
def test_bad_budgets_are_answered_with_400(trusting, value):
    status, answer = trusting.chat(data_url(1), QUESTION, **budget(value))
    assert status == 400, answer
    assert "retain" in answer["error"]["message"]
    assert trusting.chat(data_url(1), QUESTION)[0] == 200


def test_a_client_cannot_send_the_words(trusting):
    given = {"mm_processor_kwargs": {"sparsight_guide": [[5]]}}
    status, answer = trusting.chat(data_url(1), QUESTION, **given)
    assert status == 400
    assert "is not known" in answer["error"]["message"]


def test_without_trust_a_request_has_no_budget_and_the_server_stops(folder_of, tmp_path):
    with server(folder_of("llava"), CASE.architecture, SERVED, log=tmp_path / "log") as running:
        status, answer = running.chat(data_url(1), QUESTION)
        assert (status, answer["usage"]["prompt_tokens"]) == (200, AROUND + 16)
        status, answer = running.chat(data_url(1), QUESTION, **budget(5))
        assert status == 400
        assert TRUST in answer["error"]["message"]
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(STOPPING) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
