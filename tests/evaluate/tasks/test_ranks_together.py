"""Several places of one evaluation in threads of this process: they meet as processes do."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from sparsight import SparseVLM
from sparsight.errors import InputError
from sparsight.evaluate import DENSE, Configuration
from sparsight.evaluate.tasks import find_tasks, read_sheets
from sparsight.evaluate.tasks.ranks import Ended, Ranks
from sparsight.evaluate.tasks.runner import run_tasks
from sparsight.evaluate.tasks.settings import TaskSettings
from sparsight.evaluate.tasks.store import open_task_store
from sparsight.methods import Random
from tests.evaluate.tasks.test_tasks import predictions
from tests.support import layouts, tiny, tiny_processor

SPARSE = Configuration("sparsevlm", SparseVLM(retain=14))
TIGHT = Configuration("sparsevlm", SparseVLM(retain=2))
DRAWN = Configuration("random", Random(retain=12))


class Meeting:
    """Where threads exchange what they have."""

    def __init__(self, count):
        self._barrier = threading.Barrier(count, timeout=60)
        self._given = [None] * count

    def exchange(self, index, document):
        self._given[index] = json.dumps(document)
        self._barrier.wait()
        found = [json.loads(text) for text in self._given]
        self._barrier.wait()
        return found


@dataclass(frozen=True)
class Threaded(Ranks):
    """A place whose neighbours are threads."""

    meeting: Any = None

    def exchange(self, document):
        return self.meeting.exchange(self.index, document)


def run_together(settings, alter=lambda index, settings: settings, count=3):
    """Run an evaluation in threads; return what each returned or raised, and what was told."""
    told = []

    def tell(error):
        told.append(error)
        return 2

    meeting = Meeting(count)
    models = [tiny.tiny_llava(dtype=torch.float32) for _ in range(count)]  # seeds are of a process

    def work(index):
        torch.set_num_threads(1)
        own = alter(index, settings)
        ranks = Threaded(index, count, tell, meeting=meeting)
        sheets = read_sheets(find_tasks(own.tasks), own.data, own.limit)
        try:
            with open_task_store(own, sheets, ranks) as store:
                before = store.count()
                shares = []
                facts = run_tasks(
                    models[index],
                    tiny_processor.processor(),
                    own,
                    sheets,
                    store,
                    ranks=ranks,
                    report=lambda done, total: shares.append(total),
                )
        except Ended as end:
            return end
        return store, facts, before, shares[0]

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count))), told


def run_alone(settings):
    sheets = read_sheets(find_tasks(settings.tasks), settings.data, settings.limit)
    with open_task_store(settings, sheets) as store:
        facts = run_tasks(
            tiny.tiny_llava(dtype=torch.float32),
            tiny_processor.processor(),
            settings,
            sheets,
            store,
        )
    return store, facts


@pytest.fixture
def settings(tmp_path):
    layouts.write_gqa(tmp_path / "data", count=7)
    layouts.write_mme(tmp_path / "data")
    return TaskSettings(
        ("gqa", "mme"),
        tmp_path / "data",
        (DENSE, SPARSE, DRAWN),
        batch=2,
        max_new_tokens=2,
        out=tmp_path / "several",
    )


def test_three_answer_as_one(settings, tmp_path):
    found, told = run_together(settings)
    assert not told
    alone, facts = run_alone(replace(settings, out=tmp_path / "alone"))
    store, own, *_ = found[0]
    assert predictions(store) == predictions(alone)
    assert {name: own[name] for name in ("refused", "prompts")} == {
        name: facts[name] for name in ("refused", "prompts")
    }
    shares = [share for *_, share in found]
    assert sum(shares) == alone.count()
    assert max(shares) - min(shares) <= 2 * 3  # a batch under every configuration
    again, told = run_together(settings, count=2)
    assert [before for _, _, before, _ in again] == [alone.count()] * 2
    assert not told


def test_what_all_refuse_is_told_once(settings):
    found, told = run_together(replace(settings, configurations=(TIGHT,)))
    assert [end.code for end in found] == [2, 2, 2]
    (error,) = told
    assert type(error).__name__ == "BudgetError"
    assert "cannot be met" in str(error)


def test_refusals_come_together(settings):
    found, told = run_together(replace(settings, configurations=(DENSE, TIGHT)))
    assert not told
    for _, facts, *_ in found:
        assert set(facts["refused"]["sparsevlm@2"]) == {"gqa", "mme"}
        assert facts["refused"] == found[0][1]["refused"]
    assert {key for key, _ in found[0][0].replies["gqa"]} == {"dense"}


def test_folders_that_are_not_shared_are_refused(settings, tmp_path):
    def alter(index, settings):
        return replace(settings, out=tmp_path / "elsewhere") if index == 2 else settings

    for _ in range(2):
        found, told = run_together(settings, alter)
        assert [end.code for end in found] == [2, 2, 2]
        (error,) = told
        assert "elsewhere" in str(error)
        assert "process 2: " in str(error)
        assert "is not the folder that process 0 writes" in str(error)
        run_alone(replace(settings, out=tmp_path / "elsewhere"))  # it is there the second time
    assert not list(settings.out.glob("*.jsonl"))


def test_other_data_on_one_machine_are_refused(settings, tmp_path):
    layouts.write_gqa(tmp_path / "other", count=6)
    layouts.write_mme(tmp_path / "other")

    def alter(index, settings):
        return replace(settings, data=tmp_path / "other") if index == 1 else settings

    _, told = run_together(settings, alter)
    (error,) = told
    assert type(error) is InputError
    assert "process 1: " in str(error)
    assert "holds another evaluation (gqa" in str(error)


def test_a_folder_in_use_is_refused_once_and_free_later(settings):
    sheets = read_sheets(find_tasks(settings.tasks), settings.data)
    with open_task_store(settings, sheets):
        found, told = run_together(settings)
    assert [end.code for end in found] == [2, 2, 2]
    assert [str(error) for error in told] == [
        f"{settings.out} is being written by another run; wait for it, or give another --out."
    ]
    with open_task_store(settings, sheets):
        pass
