"""Benchmarks write their result file before they print, so that `| head -1` loses none."""

import importlib
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = str(Path(__file__).parents[2] / "benchmarks")
HELPERS = ("shapes", "views")  # modules that the benchmarks import


class Gone(io.StringIO):
    """A stream whose reader has gone."""

    def write(self, text):
        raise BrokenPipeError


@pytest.fixture
def load(monkeypatch):
    """Import a benchmark, for one test."""
    monkeypatch.syspath_prepend(FOLDER)
    loaded = []

    def load(name):
        loaded.append(name)
        return importlib.import_module(name)

    yield load
    for name in (*loaded, *HELPERS):
        sys.modules.pop(name, None)


def check_written(monkeypatch, main, out, *, errors=False):
    """Check that a benchmark whose output nobody reads has written its result file."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Gone())
        if errors:
            patch.setattr(sys, "stderr", Gone())
        with pytest.raises((OSError, SystemExit)):
            main()
    return json.loads(out.read_text())


def test_times_of_choosing(load, monkeypatch, tmp_path):
    selection = load("selection")
    monkeypatch.setattr(selection, "measure_rate", lambda: 1e9)
    monkeypatch.setattr(selection, "measure", lambda *_: {"seconds": 1.0})
    out = tmp_path / "out.json"
    words = ["--methods", "uniform", "--batch", "1", "--out", str(out)]
    written = check_written(monkeypatch, lambda: selection.main(words), out)
    assert [row["method"] for row in written["rows"]] == ["uniform"] * 3


def test_times_of_prefill(load, monkeypatch, tmp_path):
    prefill = load("prefill")
    out = tmp_path / "out.json"
    words = ["--shape", "tiny", "--retain", "12", "--runs", "1", "--warm-up", "0", "--decode", "1"]
    words += ["--text", "8", "--batch", "1", "--out", str(out)]
    written = check_written(monkeypatch, lambda: prefill.main(words), out)
    assert [budget["retain"] for budget in written["budgets"]] == [12]


@pytest.mark.parametrize("errors", [False, True])
def test_rows_after_a_kill(load, monkeypatch, tmp_path, errors):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(__version__="0"))
    killing = load("scale_kill")
    jobs = {name: lambda *_: {"lost": []} for name in killing.KILLS}
    monkeypatch.setattr(killing, "KILLS", jobs)
    out = tmp_path / "out.json"
    words = ["scale_kill.py", "--model", "tiny", "--rows", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    written = check_written(monkeypatch, killing.main, out, errors=errors)
    assert (written["worker"], written["command"]) == ({"lost": []}, {"lost": []})
