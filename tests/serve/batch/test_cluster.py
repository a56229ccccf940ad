"""`sparsight run --ray` on a local cluster: nothing lost and nothing twice when something dies."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sparsight.errors import SettingError
from sparsight.serve.batch.cluster import Actor, Cluster
from sparsight.serve.batch.record import read_record
from sparsight.serve.batch.settings import Asking
from tests.support import jobs, tiny_processor

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "scale_kill.py"


class Echo:
    """Answers without a model, and counts one halved batch each time."""

    halved = 0

    def answer(self, rows):
        self.halved += 1
        return jobs.answer(rows)


def build_echo(asking, base):
    assert (asking, base) == (Asking(), Path("base"))
    return Echo()


def test_an_actor_answers_what_it_is_sent():
    actor = Actor(build_echo, Asking(), "base")
    rows = [jobs.make_row(number, question=f"what\u2028{number}") for number in (1, 2, 3)]
    sent = [json.dumps(list(map(vars, part))) for part in (rows[:2], rows[2:])]
    got = actor({"rows": sent})
    assert got["halved"] == [1, 1]
    first, second = (list(map(read_record, text.split("\n")[:-1])) for text in got["lines"])
    assert first == jobs.answer(rows[:2])
    assert second == jobs.answer(rows[2:])


@pytest.fixture
def ray():
    return pytest.importorskip("ray", reason="ray is not installed; run: make scale-test")


def test_a_gpu_with_a_number_and_an_address_of_nobody_are_refused(ray):
    with pytest.raises(SettingError, match="--device cuda:1 names one GPU"):
        Cluster("local", 1, build_echo, Asking(device="cuda:1"), Path("base"))
    cluster = Cluster("no such address", 1, build_echo, Asking(), Path("base"))
    with pytest.raises(SettingError, match="--ray no such address cannot be reached"):
        next(iter(cluster.answer_all(iter([[jobs.make_row(1)]]))))


def test_a_worker_and_then_the_command_are_killed_half_way(ray, tmp_path):
    model = tiny_processor.save(tmp_path / "model")
    out = tmp_path / "results.json"
    words = ["--model", model, "--rows", "60", "--out", out]
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    assert results["worker"]["workers"] == 2
    for name in ("worker", "command"):
        result = results[name]
        assert 20 <= result["rows_when_killed"] < 60
        assert result["exit_code"] == 0
        assert (result["rows"], result["lost"], result["twice"]) == (60, [], [])
        assert result["errors"] == []
