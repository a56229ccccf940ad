"""Hundreds of hostile requests: each gets the right status, and the server is as before."""

import sys
from collections import Counter
from pathlib import Path

import pytest

from sparsight.serve.server.settings import Limits
from tests.support import server
from tests.support.footprint import essence
from tests.support.server import answer, asks, picture, post, rest

FOLDER = str(Path(__file__).parents[2] / "benchmarks")
NUMBER = 600
BODY = 2_000_000


@pytest.fixture
def hostile(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import serve_hostile

    yield serve_hostile
    for name in ("serve_hostile", "serve_bombs"):
        sys.modules.pop(name)


@pytest.mark.filterwarnings("ignore::sparsight.errors.InputWarning")
def test_hundreds_of_requests(hostile):
    pair = server.tiny_pair()
    attacker = hostile.Attacker(0, "tiny", key="key", most_body=BODY)
    weights = {
        kind: weight for kind, weight in hostile.WEIGHTS.items() if kind not in hostile.ON_THE_WIRE
    }
    limits = Limits(body_bytes=BODY, tokens=50)
    with server.serving(*pair, api_key="key", limits=limits) as service:
        key = {"Authorization": "Bearer key"}
        fixed = asks(picture(), sparsight={"retain": 9})
        want = answer(post(service, fixed, headers=key)[0])
        rest(service)
        before = essence(pair[0])
        wrong = []
        seen = Counter()
        for attack in attacker.draw(NUMBER, weights):
            reply = server.send(service, attack)
            seen[attack.kind] += 1
            if reply.status_code not in attack.right:
                wrong.append((attack.kind, reply.status_code, reply.text[:200], attack.body[:300]))
            if reply.status_code != 200:
                assert set(reply.json()) == {"error"}
        assert not wrong, wrong[:5]
        assert len(seen) > len(weights) - 4
        assert answer(post(service, fixed, headers=key)[0]) == want
        rest(service)
        assert essence(pair[0]) == before
        assert service.worker.alive
