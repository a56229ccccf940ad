"""An evaluation continues from answers it could have written; any other line is refused."""

import json

import pytest
import torch

from sparsight.errors import InputError, InputWarning
from sparsight.evaluate import DENSE, Configuration, Settings, open_store, read_records, run
from sparsight.evaluate.scenes import compose_suite
from sparsight.methods import Uniform
from tests.support import tiny, tiny_processor

CONFIGURATIONS = (DENSE, Configuration("uniform", Uniform(retain=9)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An evaluation of two families, and the lines of its answers."""
    suite, out = tmp_path_factory.mktemp("suite"), tmp_path_factory.mktemp("out")
    compose_suite(3, "test", share=0.03).write(suite)
    settings = Settings(
        CONFIGURATIONS, suite=suite, out=out, max_new_tokens=3, families=("place", "two-turn")
    )
    run(tiny.tiny_llava(dtype=torch.float32), tiny_processor.processor(), settings)
    return settings, (out / "answers.jsonl").read_text().splitlines(keepends=True)


def reopened(finished, number, line):
    """Open the evaluation with one of its lines put in place of another."""
    settings, lines = finished
    (settings.out / "answers.jsonl").write_text(
        "".join([*lines[:number], line, *lines[number + 1 :]])
    )
    with open_store(settings) as store:
        return store.records


def test_whole_lines_are_taken(finished):
    assert len(reopened(finished, 1, finished[1][1])) == len(finished[1])


@pytest.mark.parametrize("line", ["{half\n", "\n", "[1]\n", "null\n", "[" * 100_000 + "\n", "{}\n"])
def test_lines_that_are_no_record_are_named(finished, line):
    with pytest.raises(
        InputError,
        match=r"line 2 is damaged .*; take it out to have it asked again, or change --out",
    ):
        reopened(finished, 1, line)


WRONG = {
    "configuration": [None, 7, ["dense"], "uniform@10"],
    "question": [None, 7, "place-nowhere-000"],
    "family": [None, 7, "gossip", "existence"],
    "split": [None, 7, "elsewhere"],
    "answers": [None, "yes", [7], [None], [], ["a", "b", "c"]],
    "expected": [None, "yes", [7], ["something else"]],
    "right": [None, True, ["no"], [1], [0.5], [None]],
    "visual_tokens": [None, "x", -1, 1.5, True, [9]],
    "mean_visual_tokens": [None, "x", -1, float("nan"), float("inf"), True],
    "prefill_flops": [None, "x", 0, -1, 1.5, True],
    "dense_prefill_flops": [None, "x", 0],
    "seconds": [None, "x", -1, float("nan")],
    "sites": [None, 0, ["x"], [3, 1], [0, 0], [0.5], [0, 1]],
    "recall": [None, [0.5], ["x"], [[2.0]], [["x"]], [[0.5, 0.5]], [[float("nan")]]],
    "recall_merged": [None, [0.5], ["x"], [[-1]], [[]]],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_fields_that_cannot_be_are_named(finished, name, value):
    row = next(
        json.loads(line) for line in finished[1] if '"uniform@9"' in line and '"place"' in line
    )
    assert row["sites"] == [0]
    assert len(row["recall"][0]) == 1
    row[name] = value
    with pytest.raises(InputError, match="line 2 is damaged"):
        reopened(finished, 1, json.dumps(row) + "\n")


def test_marks_that_are_not_those_of_the_answers_are_named(finished):
    row = json.loads(finished[1][1])
    row["right"] = [not right for right in row["right"]]
    with pytest.raises(
        InputError, match=r"line 2 is damaged .its marks are not those of its answers"
    ):
        reopened(finished, 1, json.dumps(row) + "\n")


def test_what_differs_from_the_suite_is_said(finished):
    row = json.loads(finished[1][1])
    row["split"] = "elsewhere"
    with pytest.raises(
        InputError, match=r"line 2 is damaged .split 'elsewhere' is '.*' in the suite"
    ):
        reopened(finished, 1, json.dumps(row) + "\n")


def test_reading_answers_alone_names_wrong_fields_too(finished):
    settings, lines = finished
    row = json.loads(lines[0]) | {"prefill_flops": "x"}
    (settings.out / "answers.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=r'line 1 is damaged .prefill_flops cannot be "x"'):
        read_records(settings.out)


def test_reading_answers_alone_says_that_the_last_one_is_half_written(finished):
    settings, lines = finished
    path = settings.out / "answers.jsonl"
    data = lines[0].encode() * 2
    path.write_bytes(data[:-5])
    with pytest.warns(
        InputWarning, match=rf"{path} is half-written: its {len(data) // 2 - 5} byte"
    ):
        assert len(read_records(settings.out)) == 1
    assert path.read_bytes() == data[:-5]
    path.write_bytes(data)
    assert len(read_records(settings.out)) == 2
