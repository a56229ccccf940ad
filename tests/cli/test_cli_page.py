"""docs/command-line.md lists the fields of the real documents and the program's exit codes."""

import itertools
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from sparsight.cli import streams
from tests.cli.test_cli import QUESTION, QUICK, run
from tests.support import clips, tiny_processor

PAGE = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
NAMED = {
    "families": "<family>",
    "splits": "<split>",
    "refused": "<family>",
}  # dicts whose keys are data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_processor.save(tmp_path_factory.mktemp("model"))


def documented(title):
    """The fields in the table below a title; `a.{b,c}` stands for two."""
    section = PAGE.split(f"## The document of `{title}`")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    found = [
        expanded
        for cell in cells
        for field in re.findall(r"`([^`]+)`", cell)
        for expanded in expand(field)
    ]
    assert len(found) == len(set(found))
    return set(found)


def expand(field):
    parts = [
        part[1:-1].split(",") if part.startswith("{") else [part]
        for part in re.split(r"(\{[^}]*\})", field)
    ]
    return ["".join(choice) for choice in itertools.product(*parts)]


def leaves(value, name=""):
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            part = NAMED.get(name.rsplit(".", 1)[-1], key)
            yield from leaves(inner, f"{name}.{part}" if name else part)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for inner in value:
            yield from leaves(inner, f"{name}[]")
    else:
        yield name


def fields(document):
    """Return the names of all values of a document.

    A field that is empty or null in one place and holds fields in another is no value.
    """
    found = set(leaves(document))

    def holds_fields(name):
        return any(other.startswith((f"{name}.", f"{name}[]")) for other in found)

    return {name for name in found if not holds_fields(name)}


def test_fields_of_ask(folder, tmp_path):
    Image.linear_gradient("L").resize((60, 40)).save(tmp_path / "photo.png")
    pytest.importorskip("av", reason="PyAV is not installed: sparsight[video]")
    shown = [tmp_path / "photo.png", clips.write_clip(tmp_path / "clip.mp4")]
    words = [*shown, QUESTION, "--model", folder, "--retain", "12", "--frames", "2", *QUICK]
    result = run("ask", *words, "--picture", tmp_path / "kept.png", "--json")
    assert fields(json.loads(result.stdout)) == documented("ask --json")


def test_fields_of_eval(folder, tmp_path):
    words = [
        "--methods",
        "dense,uniform,sparsight,sparsevlm",
        "--retain",
        "32,2",
        "--limit",
        "2",
        "--out",
        tmp_path / "out",
    ]
    result = run("eval", "--model", folder, *words, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert fields(document) == documented("eval --json")
    assert document == json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))


def test_exit_codes():
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    assert codes == {
        0,
        streams.UNEXPECTED,
        streams.REFUSED,
        streams.INTERRUPTED,
        streams.READER_GONE,
    }


def test_commands():
    shown = re.sub(r"\x1b\[[0-9;]*m", "", run("--help").stdout)
    listed = {
        name
        for cell in re.findall(r"^\| (`.*?`) \|", PAGE, re.MULTILINE)
        for name in re.findall(r"`(\w+)", cell)
    }
    commands = {"ask", "run", "eval", "prepare", "methods", "models", "modes"}
    assert commands <= listed
    assert all(name in shown for name in commands)
