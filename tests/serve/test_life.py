"""Clients that go, wait or send slowly; a model that fails; a full line; the end of the server."""

import asyncio
import json
import threading
import time

import pytest
import torch

from sparsight.serve.server.batches import Host
from sparsight.serve.server.settings import Limits
from tests.support import server
from tests.support.server import Caller, answer, asks, counted, get, picture, post, rest


@pytest.fixture(scope="module")
def pair():
    return server.tiny_pair()


@pytest.fixture
def gate(monkeypatch):
    """An event without which no batch begins; `entered` counts those that wait."""
    event = threading.Event()
    event.entered = 0
    plain = Host.answer

    def wait(host, jobs):
        event.entered += 1
        assert event.wait(20)
        plain(host, jobs)

    monkeypatch.setattr(Host, "answer", wait)
    yield event
    event.set()


def encode(**fields):
    return json.dumps(asks(**fields)).encode()


def gather(*calls):
    async def together():
        return await asyncio.gather(*[call() for call in calls])

    return asyncio.run(together())


async def until(true, seconds=10):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


@pytest.fixture
def steps(pair):
    """A list that grows by one with each forward pass."""
    seen = []
    handle = pair[0].register_forward_hook(lambda *_: seen.append(1))
    yield seen
    handle.remove()


def test_a_stream_that_is_left_stops_the_model(pair, steps):
    with server.serving(*pair) as service:
        caller = Caller(service, [encode(stream=True, max_tokens=400)], leave_after=3)
        asyncio.run(caller.call())
        rest(service)
        assert len(steps) < 200
        assert answer(post(service, asks())[0])


def test_an_answer_that_nobody_waits_for_stops_the_model(pair, steps):
    with server.serving(*pair) as service:
        caller = Caller(service, [encode(max_tokens=400)])

        async def leave():
            await until(lambda: len(steps) > 3)
            caller.leave()

        gather(caller.call, leave)
        rest(service)
        assert caller.status == 499
        assert len(steps) < 200


def test_one_of_a_batch_may_leave(pair, gate):
    with server.serving(*pair) as service:
        leaver = Caller(service, [encode(stream=True, max_tokens=60)], leave_after=2)
        stayer = Caller(service, [encode(max_tokens=60)])

        async def begin():
            await asyncio.sleep(0.2)
            gate.set()

        gather(leaver.call, stayer.call, begin)
        assert stayer.status == 200
        usage = json.loads(b"".join(stayer.pieces))["usage"]
        assert usage["completion_tokens"] == 60
        assert len(leaver.pieces) < 60


def test_a_waiting_request_that_is_left_never_runs(pair, gate):
    with server.serving(*pair) as service:
        first = Caller(service, [encode()])
        second = Caller(service, [encode(temperature=1)])

        async def leave():
            await until(lambda: gate.entered == 1)
            await asyncio.sleep(0.3)
            second.leave()
            await until(lambda: second.status == 499)
            gate.set()

        gather(first.call, second.call, leave)
        assert first.status == 200
        assert gate.entered == 1
        assert counted(service, "sparsight_queue_length") == 0


def test_a_full_line_refuses_and_one_that_waits_too_long_is_refused(pair, gate):
    with server.serving(*pair, limits=Limits(queue=2, queue_seconds=0.6, batch=1)) as service:
        callers = [Caller(service, [encode()]) for _ in range(4)]

        async def later(caller, seconds):
            await asyncio.sleep(seconds)
            await caller.call()

        async def begin():
            await asyncio.sleep(1.5)
            gate.set()

        calls = [lambda at=at: later(callers[at], 0.1 * at) for at in range(4)]
        gather(*calls, begin)
        # the gate holds the first before it has started, so that it counts as waiting
        assert [caller.status for caller in callers] == [503, 503, 429, 429]
        assert callers[0].error["code"] == "queue_timeout"
        assert callers[2].error["code"] == "queue_full"
        assert answer(post(service, asks())[0])


def test_an_answer_that_takes_too_long(pair):
    with server.serving(*pair, limits=Limits(answer_seconds=0.15)) as service:
        slow = asks(max_tokens=450)
        reply = post(service, slow)[0]
        assert reply.status_code == 504
        assert reply.json()["error"]["code"] == "answer_timeout"
        stream = Caller(service, [json.dumps({**slow, "stream": True}).encode()])
        asyncio.run(stream.call())
        assert stream.status == 200
        assert b"[DONE]" not in b"".join(stream.pieces)
        rest(service)
        assert answer(post(service, asks(max_tokens=1))[0])


def test_slow_and_broken_off_bodies(pair):
    with server.serving(*pair, limits=Limits(body_seconds=0.3)) as service:
        body = encode()
        slow = Caller(service, [body[:20], 1.0, body[20:]])
        steady = Caller(service, [body[:20], 0.05, body[20:]])
        left = Caller(service, [body[:20], 0.05])  # more is announced, and never comes
        left.leave()
        gather(slow.call, steady.call, left.call)
        assert left.status == 499
        assert slow.status == 408
        assert slow.error["code"] == "slow_body"
        assert steady.status == 200


def test_a_request_that_spoils_a_batch_does_not_spoil_the_others(pair, monkeypatch, gate):
    from sparsight.errors import BudgetError

    plain = pair[0].generate

    def generate(**inputs):
        if (inputs["input_ids"] == 50).any():
            raise BudgetError("word 50 has no budget.")
        return plain(**inputs)

    monkeypatch.setattr(pair[0], "generate", generate, raising=False)
    with server.serving(*pair) as service:
        threading.Timer(0.4, gate.set).start()
        bodies = [asks(text=text) for text in ("w40 w41", "w50 w51", "w60 w61")]
        replies = post(service, *bodies)
        assert [reply.status_code for reply in replies] == [200, 400, 200]
        assert "word 50" in replies[1].json()["error"]["message"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ValueError("secret words"), 500, "server_error"),
        (torch.OutOfMemoryError("secret words"), 503, "out_of_memory"),
    ],
)
def test_a_model_that_fails_is_told_without_its_words(pair, monkeypatch, error, status, code):
    def fail(**_):
        raise error

    with server.serving(*pair) as service:
        with monkeypatch.context() as patched:
            patched.setattr(pair[0], "generate", fail, raising=False)
            reply = post(service, asks(picture()))[0]
        assert reply.status_code == status
        assert reply.json()["error"]["code"] == code
        assert "secret" not in reply.text
        assert answer(post(service, asks(picture()))[0])


def test_stopping_lets_what_runs_finish_and_nobody_in(pair):
    with server.serving(*pair) as service:
        stream = Caller(service, [encode(stream=True, max_tokens=40)])
        late = Caller(service, [encode()])

        async def stop():
            await until(lambda: stream.pieces)
            service.door.stopping = True
            await late.call()
            assert not await service.door.drain(0.001)
            assert await service.door.drain(20)

        gather(stream.call, stop)
        assert late.status == 503
        assert late.error["code"] == "stopping"
        assert stream.pieces[-1] == b"data: [DONE]\n\n"
        health = get(service, "/health")
        assert (health.status_code, health.json()["status"]) == (503, "stopping")


def test_what_does_not_finish_is_broken_off_and_told(pair, gate):
    with server.serving(*pair) as service:
        waits = Caller(service, [encode()])
        runs = Caller(service, [encode(stream=True, max_tokens=450, temperature=1)])

        async def stop():
            gate.set()
            await until(lambda: runs.pieces)
            await asyncio.to_thread(service.worker.stop)

        async def wait_behind():
            await until(lambda: runs.pieces)
            await waits.call()

        gather(runs.call, wait_behind, stop)
        assert b'"stopping"' in runs.pieces[-1]
        assert waits.status == 503
        assert get(service, "/health").json()["status"] == "broken"


def test_metrics(pair):
    with server.serving(*pair) as service:
        field = {"method": "uniform", "retain": 9}
        post(service, asks(picture(), sparsight=field), asks(picture(), n=3))
        rest(service)
        assert counted(service, "sparsight_visual_tokens_before_total", method="uniform") == 36
        assert counted(service, "sparsight_visual_tokens_after_total", method="uniform") == 9
        assert counted(service, "sparsight_generated_tokens_total") == 6
        assert counted(service, "sparsight_responses_total", status="200") == 1
        assert counted(service, "sparsight_responses_total", status="400") == 1
        assert counted(service, "sparsight_time_to_first_token_seconds_count") == 1
        assert counted(service, "sparsight_queue_seconds_count") == 1
        page = get(service, "/metrics")
        assert page.headers["content-type"].startswith("text/plain")
        assert 'sparsight_visual_tokens_before_total{method="uniform"} 36.0' in page.text
