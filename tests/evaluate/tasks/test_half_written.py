"""A half-written last line is left out of scores, and people are told so."""

import json

import pytest
from typer.testing import CliRunner

from sparsight.cli import app
from sparsight.evaluate.tasks.lines import load_rows
from tests.evaluate.tasks.test_export import write_folder
from tests.support import layouts

HALF = '{"run": "né'  # 12 bytes in UTF-8


@pytest.fixture
def folder(tmp_path):
    data = layouts.write_images(tmp_path / "data")
    return write_folder(tmp_path / "run", data)


def add_half(path):
    """Write a line that is cut off behind the others; return the whole file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(HALF)
    return path.read_bytes()


def score(folder, *more):
    return CliRunner().invoke(app, ["eval", "--score", str(folder), "--json", *map(str, more)])


def test_a_whole_file_is_scored_without_a_word(folder):
    result = score(folder)
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize("name", ["mmbench.jsonl", "mmbench.rank-3.jsonl", "verdicts.jsonl"])
def test_scoring_says_what_it_leaves_out(folder, name):
    before = json.loads(score(folder).stdout)
    data = add_half(folder / name)
    result = score(folder)
    assert result.exit_code == 0
    assert result.stderr == (
        f"note: the last line of {folder / name} is half-written: its 12 bytes are left out, and "
        "stay in the file; the command with --tasks asks it again.\n"
    )
    assert json.loads(result.stdout) == before
    assert (folder / name).read_bytes() == data


def test_an_export_says_it_once(folder, tmp_path):
    pytest.importorskip("openpyxl")
    add_half(folder / "mmbench.jsonl")
    result = score(folder, "--export", tmp_path / "books")
    assert result.exit_code == 0
    assert result.stderr.count("half-written: its 12 bytes are left out") == 1


def test_a_repaired_file_loses_what_the_note_says(tmp_path):
    path = tmp_path / "gqa.jsonl"
    path.write_text('{"a": 1}\n')
    add_half(path)
    rows, note = load_rows(path, repair=True)
    assert rows == [{"a": 1}]
    assert note.endswith("was half-written: its 12 bytes were dropped, and it is asked again.")
    assert path.read_text() == '{"a": 1}\n'
