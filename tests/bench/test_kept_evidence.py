"""Answers, counted by how much of the evidence was left."""

import sys
from pathlib import Path

from sparsight.evaluate.record import Record

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from kept_evidence import count_parts, find_part, write_kept


def make_record(question, right, *recall):
    """Return a record of which only these values matter."""
    turns = tuple(right for _ in recall)
    told = ("",) * len(turns)
    return Record(
        "any", question, "place", "", told, told, turns, 9, 9.0, 1, 1, 1.0, (0, 9), recall, recall
    )


def test_parts_of_the_evidence():
    shares = {
        0.0: "none",
        0.1: "less than half",
        0.5: "half or more",
        0.9: "half or more",
        1: "all",
    }
    for share, part in shares.items():
        assert find_part(make_record("a", True, (share, 0.0))) == part
    assert find_part(make_record("a", True, None)) == "nothing to find"
    assert find_part(make_record("a", True, (1.0, 0.0), (0.25, 0.0))) == "less than half"


def test_only_questions_that_the_whole_image_answers_count():
    dense = {name: make_record(name, name != "c", (1.0,)) for name in "abc"}
    pruned = {name: make_record(name, name != "b", (0.5,)) for name in "abc"}
    parts = count_parts(dense, pruned)
    assert parts["half or more"] == {"questions": 2, "right": 1}
    assert sum(part["questions"] for part in parts.values()) == 2
    table = write_kept({"rows": {"x@64": parts}})
    assert table.splitlines()[-1] == "| `x@64` |  |  |  | 50 % of 2 |  |"
