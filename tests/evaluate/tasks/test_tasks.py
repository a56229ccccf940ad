"""Benchmarks from the folder to the table: a tiny model, a judge on the loopback, continuation."""

import json
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sparsight import SparseVLM
from sparsight.cli import app, evaluate_tasks
from sparsight.errors import InputError
from sparsight.evaluate import DENSE, Configuration
from sparsight.evaluate.judge import client
from sparsight.evaluate.tasks import find_tasks, read_sheets
from sparsight.evaluate.tasks.asking import Asker
from sparsight.evaluate.tasks.runner import run_tasks
from sparsight.evaluate.tasks.scores import score_folder
from sparsight.evaluate.tasks.settings import TaskSettings
from sparsight.evaluate.tasks.store import open_task_store
from sparsight.methods import Random
from tests.support import layouts, tiny, tiny_processor
from tests.support.judge import run_judge

SPARSE = Configuration("sparsevlm", SparseVLM(retain=14))
DRAWN = Configuration("random", Random(retain=12))
ALL = (DENSE, SPARSE, DRAWN)
IMAGES = layouts.IMAGE_TASKS
PAGE = Path(__file__).parents[3] / "docs" / "reproduce.md"
WORDS = ("--max-new-tokens", 3, "--retain", 14)
OF_QWEN = ("--methods", "sparsevlm", "--retain", "600")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return layouts.write_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model():
    return tiny.tiny_llava(dtype=torch.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_processor.save(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in client.KEYS:
        monkeypatch.delenv(name, raising=False)


def make(data, out, tasks=("gqa", "mme"), **changes):
    options = {"configurations": ALL, "batch": 3, "max_new_tokens": 3} | changes
    return TaskSettings(tasks, data, out=out, **options)


def run(model, settings, report=None):
    sheets = read_sheets(find_tasks(settings.tasks), settings.data, settings.limit)
    with open_task_store(settings, sheets) as store:
        facts = run_tasks(model, tiny_processor.processor(), settings, sheets, store, report=report)
    return sheets, store, facts


def reopen(settings, sheets):
    with open_task_store(settings, sheets):
        pass


def predictions(store):
    return {
        (task, *pair): reply.prediction
        for task, replies in store.replies.items()
        for pair, reply in replies.items()
    }


@pytest.fixture(scope="module")
def finished(model, data, tmp_path_factory):
    settings = make(data, tmp_path_factory.mktemp("finished"))
    return settings, *run(model, settings)


def test_every_question_is_answered_by_every_configuration(finished):
    _, _, store, facts = finished
    assert {task: len(replies) for task, replies in store.replies.items()} == {"gqa": 12, "mme": 24}
    assert facts["prompts"] == {"gqa": "the model's own", "mme": "the model's own"}
    assert facts["padding"] == (122, 117, 104)
    assert not facts["refused"]
    for reply in store.replies["gqa"].values():
        assert reply.visual_tokens == tiny.VISUAL
        assert reply.mean_visual_tokens <= (14 if "@" in reply.configuration else tiny.VISUAL)
        assert (reply.prefill_flops < reply.dense_prefill_flops) == ("@" in reply.configuration)


def test_batches_answer_as_one_by_one(finished, model, tmp_path):
    settings, _, store, _ = finished
    alone = run(model, make(settings.data, tmp_path, batch=1))[1]
    assert predictions(alone) == predictions(store)
    own = {pair: reply.prefill_flops for pair, reply in alone.replies["mme"].items()}
    assert own == {pair: reply.prefill_flops for pair, reply in store.replies["mme"].items()}


class Stop(Exception):
    """Ends an evaluation early."""


@pytest.mark.parametrize("cut", [0, 30])
def test_continuing_equals_one_go(finished, model, tmp_path, cut):
    def stop(done, total):
        if done >= 10:
            raise Stop

    settings = make(finished[0].data, tmp_path)
    with pytest.raises(Stop):
        run(model, settings, stop)
    path = tmp_path / "mme.jsonl"
    if not path.exists():
        path = tmp_path / "gqa.jsonl"
    if cut:
        path.write_bytes(path.read_bytes()[:-cut])
    counts = []
    _, store, _ = run(model, settings, lambda done, total: counts.append(total))
    assert counts[0] == 36 - 10 + bool(cut)
    assert bool(store.notes) == bool(cut)
    assert predictions(store) == predictions(finished[2])


def test_a_folder_is_scored_from_its_files_alone(finished):
    settings = finished[0]
    results = score_folder(settings.out)
    assert json.loads((settings.out / "results.json").read_text()) == results
    dense, sparse, _ = results["configurations"]
    assert (dense["key"], sparse["key"]) == ("dense", "sparsevlm@14")
    assert dense["tasks"]["mme"]["n"] == 8
    assert set(dense["tasks"]["mme"]["parts"]) == {"color", "artwork"}
    assert dense["cost"]["flops_share"] == 1
    assert results["tasks"]["gqa"]["questions"] == 4


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"model": "other"}, "model 'embedded' there, 'other' now"),
        ({"files": "ab"}, "model_files '' there"),
        ({"seed": 1}, "seed 0 there"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"max_new_tokens": 4}, "max_new_tokens 3 there"),
        ({"configurations": (Configuration("random", Random(retain=12, seed=3)),)}, "random@12"),
    ],
)
def test_another_evaluation_is_not_continued(finished, changes, part):
    settings, sheets, *_ = finished
    with pytest.raises(InputError, match="holds another evaluation") as error:
        reopen(make(settings.data, settings.out, **changes), sheets)
    assert part in str(error.value)


def test_answers_of_another_model_are_found(finished, tmp_path):
    settings, sheets, *_ = finished
    other = make(settings.data, tmp_path / "other", model="other")
    reopen(other, sheets)
    shutil.copy(settings.out / "gqa.jsonl", other.out)
    with pytest.raises(InputError, match="line 1 was answered in another evaluation"):
        reopen(other, sheets)


def test_answers_of_another_run_are_not_scored(finished, tmp_path):
    settings, sheets, *_ = finished
    other = make(settings.data, tmp_path / "other", model="other")
    reopen(other, sheets)
    shutil.copy(settings.out / "gqa.jsonl", other.out)
    with pytest.raises(InputError, match=r"gqa.jsonl: line 1 was answered in another evaluation"):
        score_folder(other.out)


def test_an_answer_stands_once(finished, tmp_path):
    settings, sheets, *_ = finished
    out = tmp_path / "copy"
    shutil.copytree(settings.out, out)
    path = out / "gqa.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[0]]))
    with pytest.raises(InputError, match=r"line 13 is damaged .*question 200 before"):
        reopen(make(settings.data, out), sheets)
    with pytest.raises(InputError, match="line 13 is damaged"):
        score_folder(out)


@pytest.mark.skipif(find_spec("fcntl") is None, reason="needs file locks")
def test_two_runs_do_not_write_one_folder(finished, tmp_path):
    settings, sheets, *_ = finished
    here = make(settings.data, tmp_path)
    with open_task_store(here, sheets), pytest.raises(InputError, match="by another run"):
        reopen(here, sheets)
    reopen(here, sheets)


def test_another_release_is_not_continued(finished, tmp_path):
    settings, *_ = finished
    layouts.write_gqa(tmp_path, count=3)
    sheets = read_sheets(find_tasks(("gqa",)), tmp_path)
    with pytest.raises(InputError, match=r"holds another evaluation .*gqa"):
        reopen(make(tmp_path, settings.out, ("gqa",)), sheets)


def test_damaged_lines_are_named(finished, tmp_path):
    settings, sheets, *_ = finished
    shutil.copytree(settings.out, tmp_path / "copy")
    path = tmp_path / "copy" / "gqa.jsonl"
    first, *rest = path.read_text().splitlines(keepends=True)
    for line in ("{}\n", "[]\n", "x\n", first.replace('"seconds": ', '"seconds": -')):
        path.write_text(line + "".join(rest))
        with pytest.raises(InputError, match="line 1 is damaged"):
            reopen(make(settings.data, path.parent), sheets)


def test_refusals_leave_a_benchmark_out(model, data, tmp_path):
    tight = Configuration("sparsevlm", SparseVLM(retain=2))
    settings = make(data, tmp_path, ("gqa",), configurations=(DENSE, tight))
    sheets, store, facts = run(model, settings)
    assert "cannot be met" in facts["refused"]["sparsevlm@2"]["gqa"]
    results = score_folder(tmp_path, heading=facts, asked={"gqa": ["200", "201", "202", "203"]})
    assert results["configurations"][1]["tasks"] == {}
    assert len(store.replies["gqa"]) == 4
    assert len(sheets) == 1


def call(*words):
    return CliRunner().invoke(app, ["eval", *[str(word) for word in words]])


def test_the_command_asks_judges_and_scores(data, folder, tmp_path):
    words = ["--tasks", ",".join(IMAGES), "--data", data, "--model", folder, "--out", tmp_path]
    words += ["--methods", "dense,sparsevlm", "--limit", 1, *WORDS]
    later = call(*words, "--judge", "none")
    assert later.exit_code == 0, later.output
    assert "not judged" in later.stdout
    with run_judge() as (url, seen):
        shown = call(*words, "--judge", url, "--judge-model", "owl")
    assert shown.exit_code == 0, shown.output
    assert 1 <= len(seen) <= 2
    for part in ("GQA", "MM-Vet", "sparsevlm@14", "mean, without judged sets", "owl-0613"):
        assert part in shown.stdout
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["judge"]["named"] == ["owl-0613"]
    assert document["command"]
    again = call("--score", tmp_path, "--json")
    assert json.loads(again.stdout)["configurations"] == document["configurations"]
    assert json.loads(again.stdout)["facts"] == document["facts"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--tasks", "vqav2"], "'vqav2' is not known"),
        (["--tasks", "gqa,gqa"], "given twice"),
        (["--tasks", "mmvet"], "a judge marks the answers"),
        (["--tasks", "mmvet", "--judge", "http://x/v1"], "--judge-model"),
        (["--tasks", "mmvet", "--judge", "here", "--judge-model", "x"], "is no address"),
        (["--tasks", "gqa", "--suite", "scenes"], "--suite says nothing about --tasks"),
        (["--tasks", "gqa", "--limit", 0], "limit=0"),
        (["--tasks", "gqa", "--seed", -1], "seed=-1"),
        (["--tasks", "gqa", "--paper", "--methods", "random"], "no published settings"),
        (["--tasks", "gqa", "--paper", *OF_QWEN], "use SparseVLM(retain=600)"),
        (["--tasks", "gqa", "--paper", "--methods", "sparsevlm:kept=3/2/1"], "takes kept of"),
        (["--tasks", "gqa", "--methods", "magic"], "'magic' is not known"),
        (["--batch", 2], "--batch says nothing about scenes"),
        (["--score", "nowhere"], "nowhere holds no evaluation on benchmarks"),
    ],
)
def test_refuses_before_loading(words, part, data, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSIGHT_CACHE", str(tmp_path))  # where no model is
    more = ["--data", data, "--out", tmp_path / "out"] if "--tasks" in words else []
    result = call(*words, *more)
    assert result.exit_code == 2
    assert part in result.stderr
    assert not (tmp_path / "out").exists()


def test_published_settings_meet_a_model_of_another_depth(data, folder, tmp_path):
    words = ["--tasks", "gqa", "--data", data, "--model", folder, "--out", tmp_path, "--paper"]
    words += ["--methods", "dense,sparsevlm,sparsevlm:recycle=false", "--max-new-tokens", 2]
    result = call(*words, "--retain", "64,none", "--limit", 1, "--json")
    assert result.exit_code == 0, result.output
    assert "note: sparsevlm@64 is refused, and the others are asked: SparseVLM.p" in result.stderr
    document = json.loads(result.stdout)
    refused = {"sparsevlm@64", "sparsevlm:recycle=false@64"}
    assert set(document["refused"]) == refused
    for key in refused:
        assert (
            "SparseVLM.paper(64) has the authors' settings for" in document["refused"][key]["gqa"]
        )
    answered = {row["key"] for row in document["configurations"] if row["tasks"]}
    assert answered == {"dense", "sparsevlm", "sparsevlm:recycle=false"}
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["methods"]["sparsevlm"] == repr(SparseVLM.paper_video())


def test_nothing_is_asked_where_every_published_setting_is_refused(
    data, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(Asker, "show", None)
    words = ["--tasks", "gqa,mme", "--data", data, "--model", folder, "--out", tmp_path, "--paper"]
    result = call(*words, "--methods", "dense,sparsevlm,sparsevlm-plus", "--retain", "192,64")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: SparseVLM.paper(192) has the authors' settings for a")
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*.jsonl"))
    assert not (tmp_path / "results.json").exists()


def test_ctrl_c_keeps_what_is_answered(data, folder, tmp_path, monkeypatch):
    plain = Asker.ask
    asked = []

    def ask(*args):
        asked.append(args)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return plain(*args)

    monkeypatch.setattr(Asker, "ask", ask)
    words = ["--tasks", "gqa", "--data", data, "--model", folder, "--out", tmp_path, *WORDS]
    stopped = call(*words, "--methods", "dense", "--batch", 2)
    assert stopped.exit_code == 130
    assert "stopped; 2 answers are kept" in stopped.stderr
    assert call(*words, "--methods", "dense", "--batch", 2).exit_code == 0
    assert len(asked) == 3
    monkeypatch.setattr(evaluate_tasks, "load_model", None)  # nothing is missing
    assert call(*words, "--methods", "dense", "--batch", 4).exit_code == 0


def read_page():
    """Return the words of each command of the page that asks benchmarks."""
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line.split("  #")[0] for block in blocks for line in block.splitlines()]
    return [shlex.split(line)[2:] for line in lines if line.startswith("sparsight eval --tasks")]


@pytest.mark.parametrize("words", read_page(), ids=lambda words: words[-1])
def test_commands_of_the_page_can_be_typed(words):
    values = {name: words[at + 1] for at, name in enumerate(words[:-1])}
    assert find_tasks(tuple(values["--tasks"].split(",")))
    chosen = evaluate_tasks.read_configurations(
        values["--methods"], values["--retain"], paper="--paper" in words
    )
    assert chosen[0] == DENSE
    shown = re.sub(r"\x1b\[[0-9;]*m", "", call("--help").stdout)
    assert [word for word in words if word.startswith("--") and word not in shown] == []


def test_data_have_to_be_named(tmp_path):
    result = call("--tasks", "gqa", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "--tasks needs --data" in result.stderr
    missing = call("--tasks", "gqa", "--data", tmp_path, "--out", tmp_path / "out")
    assert "llava_gqa_testdev_balanced.jsonl" in missing.stderr
    assert not (tmp_path / "out").exists()
