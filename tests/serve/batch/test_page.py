"""docs/run.md names the fields, options and kinds of files that there are."""

import inspect
import json
import re
from dataclasses import fields
from pathlib import Path

from sparsight.cli.batch import run_command
from sparsight.images import MOST_PIXELS
from sparsight.needs import EXTRAS
from sparsight.serve.batch.media import SCALE
from sparsight.serve.batch.record import Record
from sparsight.serve.batch.runner import Agreement
from sparsight.serve.batch.tables import READERS
from sparsight.videos import MOST_SHOWN, VIDEOS
from tests.serve.batch.test_command import BATCH, run
from tests.support import jobs, tiny_processor

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "run.md").read_text(encoding="utf-8")


def section(title):
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def first_cells(text):
    """The names in the first cells of the rows of all tables."""
    cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_fields():
    record, summary = section("What comes out").split("With `--json`")
    assert first_cells(record) == [field.name for field in fields(Record)]
    check = next(line for line in summary.splitlines() if line.startswith("| `check`"))
    named = re.findall(r"`(\w+)`", check.split("|")[2])
    assert named == [*(field.name for field in fields(Agreement)), "time_ratio"]


def test_the_summary(tmp_path):
    table = jobs.make_table(tmp_path / "in", 1)
    model = tiny_processor.save(tmp_path / "model")
    words = [table, "--out", tmp_path / "out.jsonl", "--model", model, *BATCH, "--json"]
    summary = section("What comes out").split("With `--json`")[1]
    assert first_cells(summary) == list(json.loads(run(*words).stdout))


def test_kinds_of_inputs():
    text = section("What goes in")
    assert first_cells(text)[:2] == list(READERS)
    assert all(f"`{suffix}`" in text or f"clip{suffix}" in text for suffix in VIDEOS)
    assert f"{72 * SCALE:g} pixels an inch" in text
    assert f"at most {MOST_SHOWN}" in text
    assert f"more than {MOST_PIXELS // 10**6} million pixels" in " ".join(PAGE.split())


def test_options_and_extras():
    options = {
        f"--{name.replace('_', '-')}": parameter.default
        for name, parameter in inspect.signature(run_command).parameters.items()
    }
    options["--json"] = False
    named = set(re.findall(r"--[a-z][a-z-]+", PAGE))
    assert named <= set(options)
    assert set(options) - named <= {"--inputs", "--as-json", "--verbose"}
    assert f"`--batch-size` ({options['--batch-size']})" in PAGE
    assert f"`--frames` images ({options['--frames']})" in PAGE
    assert all(f"sparsight[{extra}]" in PAGE for extra in EXTRAS.values())


def between(name):
    return PAGE.split(f"<!-- {name} -->")[1].split(f"<!-- end of {name} -->")[0]


def test_figures_are_those_of_the_result_files():
    results = json.loads((ROOT / "benchmarks" / "results" / "batch-embedded-cpu.json").read_text())
    text = between("measured")
    for value in (
        results["images_per_second"]["dense"],
        results["images_per_second"]["sparse"],
        results["speed_ratio"],
        results["prefill_flops_ratio"],
        results["rows"],
    ):
        assert f"{value:.3g}" in text, value
    killed = json.loads((ROOT / "benchmarks" / "results" / "scale-kill-cpu.json").read_text())
    text = between("killed")
    for part in (killed["worker"], killed["command"]):
        assert (part["lost"], part["twice"], part["errors"]) == ([], [], [])
        assert f"{part['rows_when_killed']} of {part['rows']}" in text
