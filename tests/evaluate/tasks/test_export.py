"""Workbooks for MMBench's server, from the folder of an evaluation."""

import json
from importlib.util import find_spec

import pytest
from typer.testing import CliRunner

from sparsight import SparseVLM
from sparsight.cli import app
from sparsight.errors import InputError, SettingError, UnsupportedError
from sparsight.evaluate import DENSE, Configuration
from sparsight.evaluate.tasks import export, find_tasks, read_sheets
from sparsight.evaluate.tasks.export import export_mmbench
from sparsight.evaluate.tasks.lines import append_rows, write_reply
from sparsight.evaluate.tasks.settings import TaskSettings
from sparsight.evaluate.tasks.store import hash_text, open_task_store
from tests.evaluate.tasks.test_task_results import make
from tests.support import layouts

SPARSE = Configuration("sparsevlm:recycle=false", SparseVLM(retain=14, recycle=False))
PREDICTIONS = ["A", "=1+1", "B\x07.", "The answer is A"]
needs_openpyxl = pytest.mark.skipif(
    find_spec("openpyxl") is None, reason="openpyxl is not installed"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return layouts.write_images(tmp_path_factory.mktemp("data"))


def write_folder(folder, data, *, task="mmbench", answered=4, **changes):
    """A folder in which the first configuration has answered all, and the second as told."""
    (sheet,) = read_sheets(find_tasks((task,)), data)
    configurations = (DENSE, SPARSE)
    settings = TaskSettings((task,), data, configurations, out=folder)
    with open_task_store(settings, [sheet]) as store:
        for configuration, count in zip(configurations, (4, answered), strict=True):
            rows = []
            for item, text in zip(reversed(sheet.items[:count]), PREDICTIONS, strict=False):
                row = write_reply(make(configuration.key, item.id, text, item.target))
                row |= {"group": item.group, "run": store.run, "prompt": hash_text(item.text)}
                rows.append({**row, "question": item.question, **changes})
            append_rows(folder / f"{task}.jsonl", rows)
    return folder


def read_book(path):
    from openpyxl import load_workbook

    return list(map(list, load_workbook(path).active.iter_rows(values_only=True)))


@needs_openpyxl
def test_a_workbook_has_the_columns_of_the_server(data, tmp_path):
    files, notes = export_mmbench(write_folder(tmp_path / "run", data), tmp_path / "out")
    assert [file.name for file in files] == [
        "mmbench-dense.xlsx",
        "mmbench-sparsevlm-recycle=false@14.xlsx",
    ]
    head, *rows = read_book(files[0])
    assert head == ["index", "question", "A", "B", "C", "D", "prediction", "answer"]
    asked = "Which color is it?"
    assert rows[0] == [0, asked, "red", "green", "blue", "yellow", "The answer is A", "A"]
    assert rows[1] == [1, asked, "red", "green", None, None, "=1+1", "B"]
    assert rows[2] == [10**6, asked, "yellow", "red", "green", "blue", "B.", "B"]
    assert rows[3] == [10**6 + 1, asked, "green", "red", None, None, "A", "A"]
    assert notes == [
        f"{file}: 1 cells have lost control characters or their end, to fit a workbook."
        for file in files
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        file.name for file in files
    )


@needs_openpyxl
@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("A\ufffe\uffff\ud800.\n", "A.\n"),
        ("\U0001f600" * 20_000, "\U0001f600" * 16_383),  # two units each
        ("x" * 40_000, "x" * 32_767),
        ("@SUM(1)", "@SUM(1)"),
    ],
    ids=["no XML", "wide", "long", "plain"],
)
def test_a_workbook_can_be_opened_whatever_was_answered(data, tmp_path, text, kept):
    folder = write_folder(tmp_path / "run", data)
    rows = [json.loads(line) for line in (folder / "mmbench.jsonl").read_text().splitlines()]
    lines = [json.dumps(row | {"prediction": text}) + "\n" for row in rows]
    (folder / "mmbench.jsonl").write_text("".join(lines))
    files, notes = export_mmbench(folder, tmp_path / "out")
    for file in files:
        table = read_book(file)
        column = table[0].index("prediction")
        assert [row[column] for row in table[1:]] == [kept] * 4
    assert len(notes) == (2 if kept != text else 0)


@needs_openpyxl
def test_the_command_writes_and_tells(data, tmp_path):
    folder = write_folder(tmp_path / "run", data, answered=2)
    words = ["eval", "--score", str(folder), "--export", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["kind"] == "tasks"
    assert "mmbench-dense.xlsx is written" in result.stderr
    assert "sparsevlm:recycle=false@14 has answered 2 of 4 questions" in result.stderr
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2
    assert "mmbench-dense.xlsx exists; give another folder" in again.stderr


@pytest.fixture
def with_package(monkeypatch):
    """What is refused before a workbook is written, whether or not the package is here."""
    monkeypatch.setattr(export, "check_extra", lambda: None)


@pytest.mark.usefixtures("with_package")
def test_what_cannot_be_exported_is_named(data, tmp_path):
    none = write_folder(tmp_path / "gqa", data, task="gqa")
    with pytest.raises(SettingError, match=r"writes answers to MMBench, and .* has none"):
        export_mmbench(none, tmp_path / "out")
    old = write_folder(tmp_path / "old", data, question="")
    with pytest.raises(InputError, match="by an earlier version, which kept no questions"):
        export_mmbench(old, tmp_path / "out")
    with pytest.raises(InputError, match="holds no evaluation on benchmarks"):
        export_mmbench(tmp_path, tmp_path / "out")
    part = tmp_path / "part"
    write_folder(part, data, answered=1)
    lines = (part / "mmbench.jsonl").read_text().splitlines(keepends=True)
    (part / "mmbench.jsonl").write_text("".join(lines[1:]))
    with pytest.raises(InputError, match="dense has answered 3 of 4 questions"):
        export_mmbench(part, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_the_extra_one_line_says_what_to_install(data, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r'pip install "sparsight\[xlsx\]"'):
        export_mmbench(write_folder(tmp_path / "run", data), tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--export", "out"], "--export says nothing about scenes"),
        (["--tasks", "gqa", "--export", "out"], "--export says nothing about --tasks"),
    ],
)
def test_an_export_is_of_answers_that_are_there(words, part):
    result = CliRunner().invoke(app, ["eval", *words])
    assert result.exit_code == 2
    assert part in result.stderr
