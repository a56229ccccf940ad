"""docs/lmms-eval.md names the arguments, options and facts that there are."""

import json
import re
import shlex
import tomllib
from pathlib import Path

from sparsight.lmms.arguments import KNOWN, Ranks, read_arguments
from sparsight.lmms.costs import Costs
from sparsight.lmms.generation import APPLIED, FRAMEWORK, OTHERS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "lmms-eval.md").read_text(encoding="utf-8")
FACTS = json.loads((ROOT / "benchmarks" / "results" / "lmms-run-cpu.json").read_text())


def section(title):
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title):
    """Cells of the tables of a section, without their heads."""
    bodies = re.findall(r"^\| -.*\n((?:\|.*\n)+)", section(title), re.MULTILINE)
    return [re.split(r" +\| +", line.strip("| ")) for line in "".join(bodies).splitlines()]


def names(cell):
    return re.findall(r"`([a-z_]+)", cell)


def test_every_argument_has_a_row():
    listed = [name for row in rows("Arguments") for name in names(row[0])]
    assert sorted(listed) == sorted(KNOWN)


def test_defaults_of_arguments():
    listed = {row[0]: row[1] for row in rows("Arguments")}
    arguments = read_arguments({"device": "cpu"}, Ranks())
    assert listed["`max_new_tokens`"] == str(arguments.most)
    assert listed["`retain`"] == str(arguments.method.retain)
    assert listed["`method`"] == f"`{arguments.method.name}`"
    assert listed["`pretrained`"] == "`embedded`"
    assert arguments.model is None


def test_every_option_of_a_task_has_a_row():
    listed = {name for row in rows("What a task asks for") for name in names(row[0])}
    assert listed == {*APPLIED, *OTHERS, *FRAMEWORK}


def test_every_row_of_the_table_of_throughput_is_explained():
    listed = {row[0].strip("`") for row in rows("A run")}
    means = Costs(questions=1, answers=1).list_means()
    assert {f"avg_{name}" for name in means} <= listed


def test_the_pins_are_those_of_the_environment():
    make = (ROOT / "Makefile").read_text()
    version = re.search(r"^LMMS \?= (.*)$", make, re.MULTILINE)[1]
    assert f'"lmms-eval=={version}" "filelock<4"' in PAGE
    assert FACTS["packages"]["lmms-eval"] == version
    assert FACTS["packages"]["filelock"].startswith("3.")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "lmms_eval.models" in project["entry-points"]


def test_the_measured_table_is_that_of_the_file():
    for run in FACTS["runs"]:
        table = run["throughput"]
        words = shlex.split(run["command"])
        arguments = words[words.index("--model_args") + 1]
        cells = [
            f"`{arguments}`",
            f"{run['scores']['exact_match,none']:.2f}",
            f"{table['avg_visual_tokens']:.0f}",
            f"{table['avg_visual_tokens_entering']:.0f}",
            f"{table['avg_prefill_flops_share']:.3f}",
        ]
        assert f"| {' | '.join(cells)} |" in PAGE
    assert f"{FACTS['questions']} questions" in section("A run")
    assert f"in batches of {FACTS['batch']}" in section("A run")
