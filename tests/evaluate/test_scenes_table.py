"""The table of an evaluation, and the marks that an evaluation leaves in its suite."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sparsight import SparseVLM
from sparsight.errors import InputError
from sparsight.evaluate import DENSE, Configuration, Record, Settings, open_store, run
from sparsight.evaluate.scenes import FAMILIES, SPLIT, compose_suite, load_suite
from sparsight.evaluate.scenes.suite import QUESTIONS
from tests.support import tiny, tiny_processor

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import hard_questions
import scenes_table


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    compose_suite(4, "test", share=0.01).write(folder)
    return folder


def split_cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_has_a_row_for_each_configuration(suite, tmp_path):
    model, processor = tiny.tiny_llava(dtype=torch.float32), tiny_processor.processor()
    tight = Configuration("sparsevlm", SparseVLM(retain=2))
    sparse = Configuration("sparsevlm", SparseVLM(retain=14))
    settings = Settings((DENSE, sparse, tight), suite=suite, out=tmp_path, max_new_tokens=2)
    lines = scenes_table.write_table(run(model, processor, settings)).splitlines()
    rows = list(map(split_cells, lines[:5]))
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
    assert hard_questions.mark_evaluated(tmp_path, suite) == 17
    hard = [question.hard_for_downscaling for question in load_suite(suite)]
    assert hard == [(64,) if number % 2 and number != 1 else () for number in range(17)]
    with pytest.raises(InputError, match="is no evaluation of"):
        hard_questions.mark_evaluated(tmp_path, SPLIT)
    made = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(made | {"control": "swapped"}))
    with pytest.raises(InputError, match="control swapped"):
        hard_questions.mark_evaluated(tmp_path, suite)
    with pytest.raises(InputError, match=r"holds no run\.json"):
        hard_questions.mark_evaluated(suite, suite)


def record(key, question, right):
    none = (None,)
    return Record(
        key,
        question,
        "existence",
        "",
        ("yes",),
        ("yes",),
        (right,),
        9,
        9.0,
        1,
        1,
        0.1,
        (),
        none,
        none,
    )


def test_hard_questions_need_the_pixels(tmp_path):
    shutil.copy(SPLIT / QUESTIONS, tmp_path)
    ids = [question.id for question in load_suite()[:3]]
    first, second, third = ids
    own = load_suite()[2].hard_for_downscaling
    rows = [
        record("dense", first, True),
        record("dense", second, False),
        record("downscale@64", third, False),
    ]
    rows += [record(f"downscale@{b}", q, False) for b in (192, 64) for q in (first, second)]
    rows += [record("downscale@128", first, True), record("downscale@0.5", first, False)]
    assert hard_questions.find_hard(rows) == {first: (64, 192), second: ()}
    assert hard_questions.mark_hard(tmp_path, hard_questions.find_hard(rows)) == 2
    assert [q.hard_for_downscaling for q in load_suite(tmp_path)[:3]] == [(64, 192), (), own]
    with pytest.raises(InputError, match="'nobody' is not in"):
        hard_questions.mark_hard(tmp_path, {"nobody": ()})


def test_the_marks_change_no_evaluation(suite, tmp_path):
    model, processor = tiny.tiny_llava(dtype=torch.float32), tiny_processor.processor()
    marked = tmp_path / "suite"
    shutil.copytree(suite, marked)
    settings = Settings(suite=suite, out=tmp_path / "out", max_new_tokens=2, limit=1)
    before = run(model, processor, settings)
    hard_questions.mark_hard(marked, {question.id: (14,) for question in load_suite(suite)})
    assert load_suite(marked) != load_suite(suite)
    after = run(model, processor, replace(settings, suite=marked))  # continues the evaluation
    assert after["suite"] == before["suite"]
    assert after["configurations"] == before["configurations"]
