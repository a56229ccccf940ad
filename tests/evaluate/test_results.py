"""What results say of one configuration beside others, and the tables of it."""

import sys
from pathlib import Path

import pytest

from sparsight import Sparsight
from sparsight.evaluate import DENSE, Configuration, Record, Settings
from sparsight.evaluate.results import compute_results
from sparsight.evaluate.scenes import load_suite
from sparsight.methods import Random, Uniform

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import budgets_table

KEYS = {
    "dense": None,
    "uniform": Uniform(retain=64),
    "sparsight": Sparsight(retain=64),
    "random": Random(retain=64),
}
WRONG = {"dense": 0, "uniform": 3, "sparsight": 1, "random": 2}  # of four questions


def answer(key, question, wrong):
    words = tuple(turn.answer for turn in question.turns)
    said = tuple("neither" for _ in words) if wrong else words
    none = (None,) * len(words)
    names = key, question.id, question.family, question.split
    marks = (not wrong,) * len(words)
    return Record(*names, said, words, marks, 576, 64.0, 1, 9, 0.1, (), none, none)


@pytest.fixture(scope="module")
def results():
    asked = [one for one in load_suite() if one.family in ("place", "counting")][:40]
    made = []
    for name, method in KEYS.items():
        made.append(DENSE if method is None else Configuration(name, method))
    records = {}
    for one in made:
        for number, question in enumerate(asked):
            wrong = number % 4 < WRONG[one.name]
            records[one.key, question.id] = answer(one.key, question, wrong)
    families = tuple(dict.fromkeys(question.family for question in asked))
    settings = Settings(tuple(made), families=families)
    document = compute_results(settings, asked, records, {})
    facts = dict.fromkeys(("dtype", "gpu", "cpu", "torch", "transformers", "sparsight"), "some")
    return {"suite": {"questions": 40}, "model": "tiny", "facts": facts} | document


def test_methods_stand_beside_the_grid_and_the_recommended_one(results):
    rows = {row["name"]: row for row in results["configurations"]}
    assert rows["dense"]["over_uniform"] is rows["dense"]["over_recommended"] is None
    assert rows["uniform"]["over_uniform"] is rows["sparsight"]["over_recommended"] is None
    assert rows["sparsight"]["over_uniform"]["difference_points"] == pytest.approx(50)
    assert rows["random"]["over_recommended"]["difference_points"] == pytest.approx(-25)
    low, high = rows["random"]["over_recommended"]["interval_points"]
    assert low < -25 < high < 0


def test_the_tables_show_scores_marks_and_differences(results):
    lines = budgets_table.write_budgets(results).splitlines()
    assert lines[0] == "| mean score in %; dense: 100.0 | 64 |"
    assert lines[2].startswith("| sparsight | 75.0 \N{BLACK UP-POINTING TRIANGLE} |")
    assert lines[4] == "| uniform | 25.0 |"
    names = {"sparsight": "all of it", "random": "chance"}
    lines = budgets_table.write_differences(results, names).splitlines()
    assert lines[2] == "| all of it | 75.0 | 64 |"
    assert lines[3].startswith("| chance | 50.0 (-25.0; -")
    assert lines[3].endswith(" | 64 |")
