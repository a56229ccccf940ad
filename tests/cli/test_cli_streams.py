"""Commands and their output: encodings, closed pipes, full disks, Ctrl-C."""

import io
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from PIL import Image
from transformers.utils import logging as transformers_logging
from typer.testing import CliRunner

from sparsight.cli import app
from sparsight.cli import app as program
from sparsight.cli import ask as cli
from sparsight.errors import InputWarning
from tests.cli.test_cli import QUICK, refused, run
from tests.support import tiny_processor

ROOT = Path(__file__).parents[2]
QUESTION = "quelle est la couleur à côté \N{CJK UNIFIED IDEOGRAPH-4E2D} ?"
PRINTING = [
    ["methods"],
    ["models"],
    ["models", "--markdown"],
    ["modes"],
    ["modes", "--markdown"],
    ["--help"],
]
NAMES = [" ".join(words) for words in PRINTING]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A question that no ASCII output can hold, about an image with such a name."""
    folder = tmp_path_factory.mktemp("é")
    Image.linear_gradient("L").convert("RGB").resize((60, 40)).save(folder / "phöto.png")
    model = tiny_processor.save(folder / "model")
    return [
        "ask",
        str(folder / "phöto.png"),
        QUESTION,
        "--model",
        str(model),
        "--retain",
        "12",
        *QUICK,
    ]


def run_in(charset, words):
    result = CliRunner(charset=charset).invoke(app, words)
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize("charset", ["ascii", "latin-1", "utf-8", "utf-16"])
def test_json_in_any_encoding(words, charset):
    result = run_in(charset, [*words, "--json"])
    assert json.loads(result.stdout)["question"] == QUESTION
    assert result.stdout.count("\n") == 1
    assert ("\\u00e9" in result.stdout or "\\u00e0" in result.stdout) == (
        charset in ("ascii", "latin-1")
    )
    assert result.stderr == ""


@pytest.mark.parametrize("charset", ["ascii", "latin-1"])
def test_pages_in_any_encoding(words, charset):
    assert r"c\xf4t\xe9 \u4e2d" in run_in("ascii", words).stdout
    for printing in PRINTING:
        assert run_in(charset, printing).stdout.strip()


def test_errors_in_any_encoding():
    result = CliRunner(charset="ascii").invoke(app, ["ask", "phöto.png", QUESTION])
    refused(result, r"ph\xf6to.png: no such file")


def ends(monkeypatch, stream, words, errors=None):
    """Run with another standard output, and return the exit code and what standard error got."""
    said = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", errors or said)
    with pytest.raises(SystemExit) as ended:
        app(words)
    monkeypatch.undo()
    stream.close()  # what is left goes nowhere, or this fails
    return ended.value.code, said.getvalue()


def closed_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


@pytest.mark.parametrize("printing", PRINTING, ids=NAMES)
def test_a_closed_pipe_ends_quietly(monkeypatch, printing):
    assert ends(monkeypatch, closed_pipe(), printing) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("printing", PRINTING, ids=NAMES)
def test_a_full_disk_is_named(monkeypatch, printing):
    with Path("/dev/full").open("w") as stream:
        found = ends(monkeypatch, stream, printing)
    assert found == (1, "error: the output cannot be written: No space left on device.\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_standard_error_that_cannot_be_written_keeps_the_exit_code(monkeypatch):
    with Path("/dev/full").open("w") as errors:
        assert ends(monkeypatch, io.StringIO(), ["ask", "nowhere.png", "what?"], errors)[0] == 2


def test_a_process_ends_as_documented():
    """The rest of the way, through the end of Python: nothing is said behind the last line."""
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT / "src")}
    shell = f"{sys.executable} -m sparsight modes | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.splitlines()[0].startswith("mode")
    assert (done.stdout.splitlines()[1], done.stderr) in (
        ("141", ""),
        ("0", ""),
    )  # 0: all fitted into the pipe
    shell = f"{sys.executable} -m sparsight methods > /dev/full; echo $?"
    done = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.stdout, done.stderr.count("\n")) == ("1\n", 1)


@pytest.mark.parametrize(
    "command",
    ["methods", "--help", "--version", "ask nowhere.png what", "eval --suite nowhere", "prepare"],
)
def test_a_closed_output_is_named_before_any_work(command, monkeypatch):
    said = io.StringIO()
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", said)
    with pytest.raises(SystemExit) as ended:
        app(command.split())
    monkeypatch.undo()
    assert ended.value.code == 1
    assert said.getvalue().startswith(
        "error: the output cannot be written: standard output is closed"
    )
    assert said.getvalue().count("\n") == 1


@pytest.mark.parametrize("closing", [">&-", "1</dev/null"])
def test_a_process_without_an_output_ends_with_1(closing):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    shell = f"{sys.executable} -m sparsight methods {closing}"
    done = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: the output cannot be written: ")


def fail(*_):
    warnings.warn("of a library", stacklevel=1)
    raise RuntimeError("out of\nmemory.")


def test_unexpected_errors_are_one_line_and_a_hint(words, monkeypatch):
    monkeypatch.setattr(
        cli,
        "load_model",
        lambda *_: warnings.warn(InputWarning("one frame"), stacklevel=1) or fail(),
    )
    result = run(*words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        "note: one frame",
        "error: unexpected RuntimeError: out of memory. "
        "Give --verbose behind the command to see where it comes from.",
    ]


def test_verbose_shows_warnings_and_where_an_error_comes_from(words, monkeypatch):
    monkeypatch.setattr(cli, "load_model", fail)
    before = transformers_logging.get_verbosity()
    with pytest.warns(UserWarning, match="of a library"):
        result = run(*words, "--verbose")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert 'raise RuntimeError("out of' in result.stderr
    assert result.stderr.splitlines()[-1] == "error: unexpected RuntimeError: out of memory."
    assert transformers_logging.get_verbosity() == before


@pytest.mark.parametrize(
    "command", ["ask", "eval", "prepare", "convert-mgm", "methods", "models", "modes"]
)
def test_every_command_takes_verbose(command):
    assert "--verbose" in re.sub(r"\x1b\[[0-9;]*m", "", run(command, "--help").stdout)


def interrupt(*_):
    raise KeyboardInterrupt


def test_an_interrupt_ends_with_130(words, monkeypatch):
    monkeypatch.setattr(cli, "load_model", interrupt)
    result = run(*words)
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "stopped.\n")


def test_a_bare_command_shows_its_help():
    result = run()
    assert result.exit_code == 2
    assert "Usage" in result.output
    assert "Traceback" not in result.output


def test_the_shell_can_complete(monkeypatch):
    monkeypatch.setenv("_ROOT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "root ")
    monkeypatch.setenv("COMP_CWORD", "1")
    result = run()
    assert {"ask", "eval", "prepare", "methods", "models", "modes"} <= set(result.stdout.split())
    monkeypatch.undo()
    assert "--install-completion" in run("--help").stdout
    assert program is app


def test_device_and_dtype(words):
    found = json.loads(run(*words, "--json", "--device", "cpu", "--dtype", "bfloat16").stdout)
    assert found["facts"]["dtype"] == "bfloat16"
    assert found["facts"]["gpu"] is None
    assert json.loads(run(*words, "--json").stdout)["facts"]["dtype"] == "float32"
