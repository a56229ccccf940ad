"""The table of an evaluation, and the marks that an evaluation leaves in its suite."""

import json
import sys
from pathlib import Path

import pytest
import torch

from sparsight import SparseVLM
from sparsight.errors import InputError
from sparsight.evaluate import DENSE, Configuration, Record, Settings, open_store, run
from sparsight.evaluate.scenes import FAMILIES, SPLIT, compose_suite, load_suite
from tests.support import tiny, tiny_processor

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import scenes_table


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    compose_suite(4, "test", share=0.01).write(folder)
    return folder


def test_the_table_has_a_row_for_each_configuration(suite, tmp_path):
    model, processor = tiny.tiny_llava(dtype=torch.float32), tiny_processor.processor()
    tight = Configuration("sparsevlm", SparseVLM(retain=2))
    sparse = Configuration("sparsevlm", SparseVLM(retain=14))
    settings = Settings((DENSE, sparse, tight), suite=suite, out=tmp_path, max_new_tokens=2)
    lines = scenes_table.table(run(model, processor, settings)).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:5]]
    assert {len(row) for row in rows} == {len(FAMILIES) + 8}
    assert rows[0][1:10] == list(FAMILIES)
    assert [row[0] for row in rows[2:]] == ["dense", "sparsevlm@14", "sparsevlm@2"]
    assert set(rows[4][1:]) == {"-"}
    assert lines[-1].startswith("17 questions, control none")


def answered(settings, key, right):
    """Answer every question of a suite, rightly or wrongly."""
    with open_store(settings) as store:
        for number, question in enumerate(load_suite(settings.suite)):
            turns = len(question.turns)
            none, marks = (None,) * turns, (right(number),) * turns
            words = tuple(turn.answer for turn in question.turns)
            names = key, question.id, question.family, question.split
            said = words if right(number) else ("neither",) * turns
            store.add(Record(*names, said, words, marks, 9, 9.0, 1, 1, 0.1, (), none, none))


def test_marks_the_suite_that_was_evaluated(suite, tmp_path):
    settings = Settings(suite=suite, out=tmp_path)
    answered(settings, "dense", lambda number: number != 1)
    answered(settings, "downscale@64", lambda number: number % 2 == 0)
    assert scenes_table.mark(tmp_path, suite) == 17
    hard = [question.hard_for_downscaling for question in load_suite(suite)]
    assert hard == [(64,) if number % 2 and number != 1 else () for number in range(17)]
    with pytest.raises(InputError, match="is no evaluation of"):
        scenes_table.mark(tmp_path, SPLIT)
    made = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(made | {"control": "swapped"}))
    with pytest.raises(InputError, match="control swapped"):
        scenes_table.mark(tmp_path, suite)
    with pytest.raises(InputError, match=r"holds no run\.json"):
        scenes_table.mark(suite, suite)
