"""`sparsight run` as it is typed: what it prints, refuses, and how it goes on after a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from sparsight.cli import app, batch, batch_job
from sparsight.cli.batch_job import hash_model, read_chosen
from sparsight.cli.method import read_method
from sparsight.serve.batch.rows import read_inputs
from sparsight.serve.batch.settings import Asking, describe
from tests.support import jobs, tiny_processor

DENSE = ["--method", "dense", "--batch-size", "2", "--max-new-tokens", "3"]
BATCH = [*DENSE[2:], "--retain", "12"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_processor.save(tmp_path_factory.mktemp("model"))


@pytest.fixture
def table(tmp_path):
    return jobs.make_table(tmp_path / "in", 5)


def run(*words):
    return CliRunner().invoke(app, ["run", *map(str, words)])


def test_what_a_user_sees(table, model, tmp_path):
    (table.parent / "1.png").unlink()
    out = tmp_path / "out.jsonl"
    words = [table, "--out", out, "--model", model, *BATCH]
    result = run(*words, "--check", 2)
    assert result.exit_code == 0, result.stderr
    first, second, third, last = result.stdout.splitlines()
    assert first == f"{out}: 5 rows, 1 of them with an error."
    assert second == "Visual tokens of a row: 36 before, 11.5 after pruning."
    assert third.startswith("Check: ")
    assert last.endswith(" seconds.")
    records = {record["id"]: record for record in jobs.read_output(out)}
    assert sorted(records) == ["r0", "r1", "r2", "r3", "r4"]
    assert "no such file" in records["r1"]["error"]
    assert records["r0"]["answer"]
    assert records["r0"]["images"] == ["0.png"]


def test_the_document_and_a_second_run(table, model, tmp_path):
    words = [table, "--out", tmp_path / "out.jsonl", "--model", model, *BATCH, "--json"]
    document = json.loads(run(*words, "--check", 3).stdout)
    assert document["rows"] == 5
    assert document["answered_before"] == document["errors"] == document["halved_batches"] == 0
    assert document["visual_tokens"] == 180
    check = document["check"]
    assert check["rows"] == check["agree"] + len(check["differing"]) == 3
    assert check["time_ratio"] == pytest.approx(
        check["dense_seconds"] / check["sparse_seconds"], rel=0.2
    )
    again = json.loads(run(*words).stdout)
    changed = {"answered_before": 5, "seconds": again["seconds"], "check": None}
    assert again == document | changed


def test_a_folder_and_dense(model, tmp_path):
    jobs.draw(tmp_path / "in" / "a.png")
    out = tmp_path / "out.jsonl"
    words = ["--question", jobs.QUESTION, "--model", model, *DENSE]
    result = run(tmp_path / "in", "--out", out, *words)
    assert result.exit_code == 0, result.stderr
    (record,) = jobs.read_output(out)
    assert (record["id"], record["visual_tokens_entering"]) == ("a.png", 36)


def refused(result, *parts):
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    for part in parts:
        assert part in line, line


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--method", "nothing"], "method 'nothing' is not known"),
        (["--retain", "0"], "retain=0"),
        (["--method", "dense", "--retain", "x"], "retain='x'"),
        (["--method", "dense", "--retain", "7"], "leave --retain out"),
        (["--method", "Dense", "--retain", "192"], "leave --retain out"),
        (["--method", "dense", "--paper"], "dense has no published settings"),
        (["--method", "sparsevlm", "--paper", "--retain", "500"], "use SparseVLM(retain=500)"),
        (["--method", "sparsevlm:sites=2", "--paper"], "--paper takes sites of sparsevlm"),
        (["--method", "sparsevlm", "--retain", "none"], "retain=None sets no bound"),
        (["--method", "dense", "--check", "3"], "--check compares with the dense model"),
        (["--device", "nowhere"], "--device 'nowhere' is not known"),
        (["--dtype", "int8"], "--dtype 'int8' is not known"),
        (["--batch-size", "0"], "--batch-size"),
        (["--out", "out.txt"], "must end in .jsonl or .parquet"),
        (["--out", "no/where.jsonl"], "its folder does not exist"),
        (["--question", "what ?"], "row 1 has a question of its own"),
        (["--workers", "2"], "--workers 2 needs --ray"),
    ],
)
def test_wrong_options_are_refused_in_one_line(table, tmp_path, monkeypatch, words, part):
    def load(*_):
        pytest.fail("a model was loaded")

    monkeypatch.setattr(batch_job, "load_model", load)
    monkeypatch.chdir(tmp_path)
    refused(run(table, "--out", "out.jsonl", *words), part)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_the_budget_that_is_not_given():
    assert read_chosen(Asking()).retain == 192
    assert read_chosen(Asking(method="dense")) is None
    changed = Asking(method="sparsevlm:recycle=false", retain="96", paper=True)
    assert read_chosen(changed) == read_method("sparsevlm:recycle=false", "96", paper=True)
    assert batch.Retain.__metadata__[0].help.endswith("default: 192.")


def test_without_the_extra_one_line_says_what_to_install(table, tmp_path, monkeypatch):
    from sparsight import needs

    monkeypatch.setattr(needs, "find_spec", lambda name: None)
    for name in needs.EXTRAS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    refused(run(table, "--out", tmp_path / "a.parquet"), 'pip install "sparsight[parquet]"')
    words = [table, "--out", tmp_path / "a.jsonl", "--ray", "local"]
    refused(run(*words), 'pip install "sparsight[scale]"')


def test_a_model_that_is_not_there_leaves_no_file(table, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(run(table, "--out", tmp_path / "out.jsonl", "--model", "no/where"), "no/where")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


CHANGES = {
    "retain": (["--retain", "13"], "retain=12"),
    "method": (["--method", "divprune"], "DivPrune(retain=12"),
    "length": (["--max-new-tokens", "4"], "max_new_tokens 3 there, 4 now"),
    "dtype": (["--dtype", "float16"], "dtype None there, 'float16' now"),
    "question": (["--question", "what"], "question 'what is it ?' there, 'what' now"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_job_is_refused_by_name(model, tmp_path, name):
    jobs.draw(tmp_path / "in" / "a.png")
    out = tmp_path / "out.jsonl"
    words = [tmp_path / "in", "--out", out, "--model", model, *BATCH]
    assert run(*words, "--question", "what is it ?").exit_code == 0
    before = out.read_bytes()
    change, part = CHANGES[name]
    question = [] if name == "question" else ["--question", "what is it ?"]
    refused(run(*words, *question, *change), "answers of another job", part)
    assert out.read_bytes() == before


def test_another_model_or_other_inputs_are_refused_by_name(table, model, tmp_path):
    out = tmp_path / "out.jsonl"
    words = [table, "--out", out, *BATCH, "--model"]
    assert run(*words, model).exit_code == 0
    copy = shutil.copytree(model, tmp_path / "copy")
    refused(run(*words, copy), f"model '{model}' there, '{copy}' now")
    jobs.draw(table.parent / "0.png", size=(90, 90))
    refused(run(*words, model), "inputs '")


def test_changed_files_of_a_model_are_refused(table, model, tmp_path, monkeypatch):
    copy = shutil.copytree(model, tmp_path / "copy")
    out = tmp_path / "out.jsonl"
    words = [table, "--out", out, *BATCH, "--model"]
    monkeypatch.chdir(tmp_path)
    assert run(*words, "copy").exit_code == 0
    assert run(*words, copy).exit_code == 0  # the same folder by another name
    before = out.read_bytes()
    (weights,) = copy.glob("*.safetensors")
    whole, times = weights.read_bytes(), (weights.stat().st_atime_ns, weights.stat().st_mtime_ns)
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.utime(weights, ns=(times[0], times[1] + 1_000_000))
    refused(run(*words, copy), "answers of another job", "model_files '")
    weights.write_bytes(whole)
    os.utime(weights, ns=times)
    assert run(*words, copy).exit_code == 0
    config = copy / "config.json"
    config.write_text(config.read_text() + "\n")
    refused(run(*words, copy), "model_files '")
    assert out.read_bytes() == before


def test_another_folder_of_the_same_name_is_refused(table, model, tmp_path, monkeypatch):
    for place in ("one", "two"):
        shutil.copytree(model, tmp_path / place / "model")
    words = [table, "--out", tmp_path / "out.jsonl", *BATCH, "--model", "model"]
    monkeypatch.chdir(tmp_path / "one")
    assert run(*words).exit_code == 0
    monkeypatch.chdir(tmp_path / "two")
    refused(run(*words), f"model '{tmp_path / 'one' / 'model'}' there")


def test_a_model_of_the_hub_is_named_as_it_is(table):
    inputs = read_inputs(table, None)
    described = describe(Asking(model="some/model"), None, None, inputs, hash_model("some/model"))
    assert (described["model"], described["model_files"]) == ("some/model", "")


def test_ctrl_c_keeps_what_is_answered(table, model, tmp_path, monkeypatch):
    def stop(self, rows):
        if any(row.number == 5 for row in rows):
            raise KeyboardInterrupt
        return jobs.answer(rows)

    words = [table, "--out", tmp_path / "out.jsonl", "--model", model, *BATCH]
    with monkeypatch.context() as patched:
        patched.setattr("sparsight.serve.batch.answering.Answerer.answer", stop)
        result = run(*words)
    kept = len(jobs.read_output(tmp_path / "out.jsonl"))
    assert result.exit_code == 130
    assert f"stopped; {kept} of 5 rows are kept" in result.stderr
    assert run(*words).exit_code == 0
    records = jobs.read_output(tmp_path / "out.jsonl")
    assert sorted(record["row"] for record in records) == [1, 2, 3, 4, 5]


# ---- a process that is killed


def start(*words):
    command = [sys.executable, "-m", "sparsight", "run", *map(str, words)]
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=settings)


def count_lines(out):
    return out.read_bytes().count(b"\n") if out.exists() else 0


def kill_after(words, out, lines):
    """Start the command, and kill it when the output has so many lines; return whether it ran."""
    process = start(*words)
    try:
        end = time.monotonic() + 120
        while count_lines(out) < lines and process.poll() is None:
            assert time.monotonic() < end, "no answer came"
            time.sleep(0.005)
        running = process.poll() is None
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    return running


def test_a_process_that_is_killed_three_times(model, tmp_path):
    table = jobs.make_table(tmp_path / "in", 60)
    out = tmp_path / "out.jsonl"
    words = [table, "--out", out, "--model", model, "--batch-size", 1, "--max-new-tokens", 8]
    words += ["--retain", 12]
    before = 0
    for kill in range(3):
        assert kill_after(words, out, before + 1), "the job ended before it was killed"
        whole = out.read_bytes()
        assert count_lines(out) > before
        before = count_lines(out)
        if kill == 1:  # as if the kill had come inside a write
            out.write_bytes(whole + whole[:50])
    assert before < 60
    process = start(*words, "--json")
    printed, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    document = json.loads(printed)
    assert document["answered_before"] == before
    assert document["rows"] == 60
    records = jobs.read_output(out)
    assert sorted(record["row"] for record in records) == list(range(1, 61))
    assert {record["error"] for record in records} == {None}
