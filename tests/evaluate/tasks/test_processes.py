"""Two real processes share an evaluation on benchmarks: as one, continued, killed, failing."""

import json
import os
import subprocess
import sys

import pytest

from sparsight.evaluate.tasks.asking import Asker
from tests.evaluate.tasks.test_tasks import WORDS, call
from tests.support import layouts, ranked, tiny_processor

pytest.importorskip("accelerate", reason='needs pip install "sparsight[gpus]"')

TASKS = ("gqa", "mme")


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    data = layouts.write_images(tmp_path_factory.mktemp("data"))
    model = tiny_processor.save(tmp_path_factory.mktemp("model"))
    shared = ["--tasks", ",".join(TASKS), "--data", data, "--model", model, "--batch", 3]
    return [*shared, "--methods", "dense,sparsevlm,random", "--device", "cpu", *WORDS, "--out"]


@pytest.fixture(scope="module")
def alone(words, tmp_path_factory):
    """The folder of one process."""
    folder = tmp_path_factory.mktemp("alone")
    shown = call(*words, folder)
    assert shown.exit_code == 0, shown.output
    return folder


def read_rows(folder):
    """Return all answers without their times, in one order; parts that are not merged too."""
    rows = []
    for path in folder.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            del row["seconds"]
            rows.append((path.name.split(".")[0], json.dumps(row, sort_keys=True)))
    return sorted(rows)


def read_results(folder):
    results = json.loads((folder / "results.json").read_text())
    for name in ("command", "facts"):
        del results[name]
    for row in results["configurations"]:
        del row["cost"]["seconds_median"]
    return results


def launch(words):
    """Run the command with accelerate's own launcher."""
    options = ["--multi_gpu", "--num_processes", "2", "--main_process_port", ranked.find_port()]
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, "-m", "sparsight"]
    return subprocess.run(
        [str(word) for word in [*command, "eval", *words]],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=240,
        check=False,
    )


def test_two_processes_continue_one_and_equal_it(words, alone, tmp_path, monkeypatch):
    plain = Asker.ask
    asked = []

    def ask(*args):
        asked.append(args)
        if len(asked) == 6:
            raise KeyboardInterrupt
        return plain(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Asker, "ask", ask)
        assert call(*words, tmp_path).exit_code == 130
    begun = read_rows(tmp_path)
    assert 0 < len(begun) < len(read_rows(alone))
    done = launch([*words, tmp_path])
    assert done.returncode == 0, done.stderr
    assert read_rows(tmp_path) == read_rows(alone)
    assert read_results(tmp_path) == read_results(alone)
    assert not list(tmp_path.glob("*.rank-*"))
    assert done.stdout.count("results in") == 1
    assert done.stderr.count("note: gqa, mme") == 1
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["command"].startswith("accelerate launch --num_processes 2 -m sparsight eval")


def test_what_ends_one_process_ends_both_and_loses_nothing(words, alone, tmp_path):
    whole = read_rows(alone)
    (first, _, told), (second, _, _) = ranked.run_processes(
        ["eval", *words, tmp_path], fault="kill"
    )
    assert (first, second) == (2, -9)
    assert "one has ended or hangs" in told
    assert "Run the same command again" in told
    assert {path.name for path in tmp_path.glob("gqa*")} == {
        "gqa.rank-0.jsonl",
        "gqa.rank-1.jsonl",
    }
    killed = read_rows(tmp_path)
    assert set(killed) < set(whole)
    assert len(set(killed)) == len(killed)

    (first, _, told), (second, _, quiet) = ranked.run_processes(
        ["eval", *words, tmp_path], fault="error"
    )
    assert (first, second) == (2, 2)
    assert told == "error: process 1: the disk of this process is gone\n"
    assert quiet == ""
    assert not (tmp_path / "run.stop").exists()
    failed = read_rows(tmp_path)
    assert set(killed) < set(failed) < set(whole)
    assert len(set(failed)) == len(failed)

    scored = call("--score", tmp_path, "--json")
    assert json.loads(scored.stdout)["configurations"][0]["tasks"]["gqa"]["n"] == 4
    assert list(tmp_path.glob("*.rank-*"))
    assert call(*words, tmp_path).exit_code == 0
    assert read_rows(tmp_path) == whole
    assert read_results(tmp_path) == read_results(alone)
    assert not list(tmp_path.glob("*.rank-*"))
