"""Tables of two trainings, and of suites of fresh seeds, by hand."""

import sys
from pathlib import Path

import pytest

from sparsight.evaluate.record import Record

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from fresh_seeds import compare_parts, write_fresh
from subsets_table import ARMS, write_subsets

FACTS = {"dtype": "float32", "gpu": None, "cpu": "a CPU", "torch": "2", "transformers": "5"}
FACTS |= {"sparsight": "0"}


def row(name, budget, score, difference=None):
    other = None
    if difference is not None:
        other = {
            "difference_points": difference,
            "interval_points": [difference - 1, difference + 1],
        }
    key = name if budget is None else f"{name}@{budget}"
    overall = {"score": score}
    return {
        "key": key,
        "name": name,
        "budget": budget,
        "overall": overall,
        "over_uniform": other,
        "n": 8,
    }


def results(shift, *more):
    rows = [row("dense", None, 0.9 + shift), row("sparsevlm", 64, 0.5 + shift, 100 * shift), *more]
    return {"configurations": rows, "facts": FACTS, "model": "embedded"}


def test_each_training_has_a_column():
    shifts = dict(zip(ARMS, (0.0, 0.05, -0.1), strict=True))
    lines = write_subsets({arm: results(shift) for arm, shift in shifts.items()}).splitlines()
    assert lines[2] == "| dense | all | 90.0 | 95.0 | 80.0 |"
    assert lines[3].startswith("| `sparsevlm` | 64 | 50.0 (+0.0; -1.0 to +1.0) | 55.0 (+5.0; +4.0")
    assert lines[-1].startswith("8 questions, mean of two families. embedded model in float32")


def test_trainings_have_to_be_asked_alike():
    asked = dict.fromkeys(ARMS, results(0.0)) | {"half": results(0.0, row("fastv", 64, 0.1))}
    with pytest.raises(ValueError, match="other methods or budgets"):
        write_subsets(asked)


def record(split, right, tokens):
    told, recall = ("",), ((1.0,),)
    return Record(
        "any",
        "q",
        "reading",
        split,
        told,
        told,
        (right,),
        9,
        tokens,
        1,
        1,
        1.0,
        (0,),
        recall,
        recall,
    )


def test_pairs_of_answers_are_compared():
    pairs = [(record("word", True, 4.0), record("word", at < 6, 2.0)) for at in range(10)]
    pairs += [(record("document", at > 0, 4.0), record("document", True, 2.0)) for at in range(10)]
    parts = compare_parts(pairs)
    assert list(parts) == ["document", "word", "all"]
    word, every = parts["word"], parts["all"]
    assert (word["gained"], word["lost"], word["right"]) == (4, 0, [10, 6])
    assert word["difference_points"] == pytest.approx(40)
    # 4 of 10 that only one answers: the variance of the sum is 4 - 16 / 10
    assert word["interval_points"] == pytest.approx([40 - 196 * 0.1549193, 40 + 196 * 0.1549193])
    assert (every["gained"], every["lost"], every["tokens"]) == (4, 1, [4, 2])
    table = write_fresh({"keys": ["a", "b"], "parts": parts}).splitlines()
    assert table[0].startswith("| part | questions | `a` | `b` |")
    assert table[2].startswith("| document | 10 | 90.0 % | 100.0 % | 0 | 1 | -10.0 (")
    by_family = compare_parts(pairs, "family")
    assert list(by_family) == ["reading", "all"]
    assert by_family["reading"] == by_family["all"] == every
    assert write_fresh({"keys": ["a", "b"], "parts": by_family}, "family").startswith("| family |")
