"""Files that a command was asked for are written even if nobody can read what it prints."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sparsight.cli import ask as command
from sparsight.errors import InputError
from sparsight.evaluate.scenes import compose_suite
from tests.cli.test_cli import QUICK
from tests.cli.test_cli_streams import closed_pipe, ends
from tests.evaluate.tasks.test_export import write_folder
from tests.support import jobs, layouts, tiny_processor

FULL = Path("/dev/full")
NO_SPACE = "error: the output cannot be written: No space left on device.\n"
FORMS = pytest.mark.parametrize("form", [[], ["--json"]], ids=["page", "json"])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_processor.save(tmp_path_factory.mktemp("model")))


@pytest.fixture
def asking(model, tmp_path):
    """A question with a picture, and the picture."""
    photo, picture = tmp_path / "photo.png", tmp_path / "picture.png"
    Image.linear_gradient("L").convert("RGB").resize((60, 40)).save(photo)
    words = ["ask", photo, "what color ?", "--model", model, "--retain", "12", *QUICK]
    return [*map(str, words), "--picture", str(picture)], picture


def check_drawn(picture):
    with Image.open(picture) as drawn:
        drawn.load()


@FORMS
def test_a_picture_is_written_when_the_reader_has_gone(monkeypatch, asking, form):
    words, picture = asking
    assert ends(monkeypatch, closed_pipe(), [*words, *form]) == (141, "")
    check_drawn(picture)


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@FORMS
def test_a_picture_is_written_when_the_answer_cannot_be(monkeypatch, asking, form):
    words, picture = asking
    with FULL.open("w") as stream:
        assert ends(monkeypatch, stream, [*words, *form]) == (1, NO_SPACE)
    check_drawn(picture)


def refuse(*_):
    raise InputError("the picture cannot be written.")


@FORMS
def test_a_picture_that_fails_is_named_when_the_reader_has_gone(monkeypatch, asking, form):
    monkeypatch.setattr(command, "write_picture", refuse)
    found = ends(monkeypatch, closed_pipe(), [*asking[0], *form])
    assert found == (2, "error: the picture cannot be written.\n")


@FORMS
def test_scenes_have_their_results_when_the_reader_has_gone(monkeypatch, model, tmp_path, form):
    suite, out = tmp_path / "suite", tmp_path / "out"
    compose_suite(3, "test", share=0.03).write(suite)
    words = ["eval", "--suite", suite, "--model", model, "--methods", "dense", "--limit", 1]
    words += ["--families", "place", "--out", out, *form]
    assert ends(monkeypatch, closed_pipe(), list(map(str, words))) == (141, "")
    assert json.loads((out / "results.json").read_text())["suite"]["questions"] == 1


@FORMS
def test_benchmarks_have_their_results_when_the_reader_has_gone(monkeypatch, model, tmp_path, form):
    data, out = tmp_path / "data", tmp_path / "out"
    layouts.write_gqa(data, count=1)
    words = ["eval", "--tasks", "gqa", "--data", data, "--model", model, "--methods", "dense"]
    words += ["--max-new-tokens", 2, "--out", out, *form]
    code, said = ends(monkeypatch, closed_pipe(), list(map(str, words)))
    assert (code, "error" in said) == (141, False)
    assert json.loads((out / "results.json").read_text())["tasks"]["gqa"]["asked"] == 1


def test_notes_on_workbooks_are_said_when_the_reader_has_gone(monkeypatch, tmp_path):
    pytest.importorskip("openpyxl")
    data = tmp_path / "data"
    layouts.write_mmbench(data)
    folder = write_folder(tmp_path / "run", data, answered=2)
    words = ["eval", "--score", str(folder), "--export", str(tmp_path / "books")]
    code, said = ends(monkeypatch, closed_pipe(), words)
    assert code == 141
    assert "mmbench-dense.xlsx is written" in said
    assert "has answered 2 of 4 questions, and is left out" in said
    assert (folder / "results.json").exists()


@FORMS
@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_a_job_has_its_answers_when_the_reader_has_gone(monkeypatch, model, tmp_path, name, form):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    table, out = jobs.make_table(tmp_path / "in", 2), tmp_path / name
    words = ["run", table, "--out", out, "--model", model, "--retain", "12", *form]
    assert ends(monkeypatch, closed_pipe(), list(map(str, words))) == (141, "")
    assert out.stat().st_size
    assert not out.with_name(name + ".rows.jsonl").exists()
