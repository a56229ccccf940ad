"""The tables of where the model looks and of the controls, by hand."""

import sys
from pathlib import Path

import pytest

from sparsight.evaluate.scenes import Question, Turn

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import controls_table
import looks_table

FACTS = {"dtype": "float32", "cpu": "a CPU", "torch": "2", "transformers": "5"}


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def row(score, place, areas, best, **more):
    intervals = [[area - 0.1, area + 0.1] for area in areas]
    families = {"place": areas, "reading": [1 - area for area in areas]}
    base = {"score": score, "place": place, "areas": areas, "best": best}
    return base | {"intervals": intervals, "families": families} | more


def results(suite, shift=0.0):
    """Areas of four layers, two blocks and the input."""
    reached = {"reached": 2, "reached_of_gain": 3}
    rows = [
        row(name, "layer", [0.5, 0.6 + shift, 0.7, 0.8 - shift], 3, **reached)
        for name in ("raters", "head", "last", "residual", "keys")
    ]
    names = ("words", "word", "distinct", "distinct_features")
    rows += [row(name, "input", [0.4 + shift], 0) for name in names]
    rows.append(row("class", "block", [0.3, 0.55 + shift], 0))
    return {"suite": suite, "questions": {"place": 3, "reading": 2}, "rows": rows, "facts": FACTS}


def test_looks_by_hand():
    chosen = results("dev", 0.25)
    chosen["rows"][0]["best"] = 1  # best there is not best on what is shown
    lines = looks_table.write_looks(results("other"), chosen).splitlines()
    heads = ["area under the curve", "input", "0", "1", "2", "best on dev", "area there on dev"]
    assert cells(lines[0]) == [*heads, "on other, 95 %"]
    table = {cells(line)[0]: cells(line)[1:] for line in lines[2:12]}
    assert list(table) == list(looks_table.TITLES.values())
    raters = ["", "0.50", "0.60", "0.70", "layer 1", "0.85", "0.60 (0.50 to 0.70)"]
    assert table["SparseVLM's raters, mean of heads"] == raters
    last = ["", "0.50", "0.60", "0.70", "layer 3", "0.55", "0.80 (0.70 to 0.90)"]
    assert table["last token, mean of heads"] == last
    words = ["0.40", "", "", "", "input", "0.65", "0.40 (0.30 to 0.50)"]
    assert table["cosine to the text's mean"] == words
    first_block = ["", "", "", "", "block 0", "0.30", "0.30 (0.20 to 0.40)"]
    assert table["class token, mean of heads"] == first_block
    assert cells(lines[13]) == ["encoder block", "0", "1"]
    assert cells(lines[15]) == ["class token, mean of heads", "0.30", "0.55"]
    assert cells(lines[17]) == ["at its best place", "place", "reading"]
    assert cells(lines[19]) == ["SparseVLM's raters, mean of heads", "0.60", "0.40"]
    assert cells(lines[21]) == ["last token, mean of heads", "0.80", "0.20"]
    assert lines[-1].startswith("Mean of 5 questions of other ")
    assert "that of the last token from layer 2 on (3 if counted from 0.5)" in lines[-1]


def question(family, *answers):
    turns = tuple(Turn("?", answer, ((),)) for answer in answers)
    return Question(f"{family} {answers}", family, "", ("one.webp",), 0, turns)


ASKED = [
    *(question("existence", answer) for answer in ("yes", "no", "No", "yes")),
    *(question("place", answer) for answer in ("top left", "Top left.", "middle")),
    *(question("two-turn", "red", answer) for answer in ("blue", "red")),
]


def test_the_most_frequent_answer_scores_by_family():
    scores = controls_table.score_single_answers(ASKED)
    assert scores == pytest.approx({"existence": 2 / 3, "place": 2 / 3, "two-turn": 1 / 2})


def answered(count, **scores):
    families = {family: {"score": score} for family, score in scores.items()}
    return {"suite": {"questions": count}, "configurations": [{"families": families}]}


def test_controls_by_hand():
    files = [answered(9, existence=1.0, place=0.5), answered(9, existence=0.0, place=0.25)]
    files.append(answered(9, place=0.125))
    lines = controls_table.write_controls(files, ASKED).splitlines()
    assert list(map(cells, lines)) == [
        ["dense", "existence", "place"],
        ["---", "---:", "---:"],
        ["as asked", "100.0", "50.0"],
        ["question only", "0.0", "25.0"],
        ["another image", "-", "12.5"],
        ["the most frequent answer", "66.7", "66.7"],
    ]
    assert controls_table.write_controls(files).splitlines() == lines[:-1]
    with pytest.raises(ValueError, match="another image: not the 9 questions"):
        controls_table.write_controls([*files[:2], answered(8, place=0.1)], ASKED)
