"""Scoring from a folder: a damaged description or target is named."""

import errno
import json
import os

import pytest

from sparsight.errors import InputError
from sparsight.evaluate.folder import read_description
from sparsight.evaluate.lock import lock_folder
from sparsight.evaluate.tasks import TASKS, find_tasks, read_sheets
from sparsight.evaluate.tasks.lines import append_rows, write_reply
from sparsight.evaluate.tasks.scores import score_folder
from sparsight.evaluate.tasks.settings import TaskSettings
from sparsight.evaluate.tasks.store import STOP, hash_run, hash_text, open_task_store
from tests.evaluate.tasks.test_task_results import make
from tests.support import layouts

ABSENT = object()


@pytest.fixture(scope="module")
def sheets(tmp_path_factory):
    return read_sheets(
        find_tasks(layouts.IMAGE_TASKS), layouts.write_images(tmp_path_factory.mktemp("data"))
    )


@pytest.fixture
def folder(tmp_path, sheets):
    """An evaluation on all image benchmarks that has no answer."""
    with open_task_store(TaskSettings(layouts.IMAGE_TASKS, tmp_path, out=tmp_path), sheets):
        return tmp_path


def answer(folder, sheet, target):
    """Write one answer that has a target."""
    item = sheet.items[0]
    row = write_reply(make("dense", item.id, "A", target, part=item.part, group=item.group))
    row["run"] = hash_run(read_description(folder, "*.jsonl"))
    row["prompt"] = hash_text(item.text)
    append_rows(folder / f"{sheet.task.name}.jsonl", [row])


def test_targets_of_the_files_fit(folder, sheets):
    for sheet in sheets:
        assert all(sheet.task.fits(item.target) for item in sheet.items)
        answer(folder, sheet, sheet.items[0].target)
    assert set(score_folder(folder)["tasks"]) == set(layouts.IMAGE_TASKS)


@pytest.mark.parametrize("name", layouts.IMAGE_TASKS)
@pytest.mark.parametrize("target", [{}, [], "", None, 5])
def test_other_targets_are_named(folder, sheets, name, target):
    answer(folder, next(sheet for sheet in sheets if sheet.task.name == name), target)
    with pytest.raises(InputError, match=rf"{name}.jsonl: line 1 is damaged .its target is none"):
        score_folder(folder)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("mmbench", {"answer": "C", "options": {"A": "red", "B": "green"}}),
        ("mmbench", {"answer": "A", "options": {"A": 1}}),
        ("mmbench", {"answer": [], "options": {"A": "red"}}),
        ("sqa", {"answer": "C", "choices": 2}),
        ("sqa", {"answer": "A", "choices": "2"}),
        ("seed", "E"),
        ("pope", "Yes"),
        ("textvqa", ["red", 1]),
    ],
)
def test_odd_targets_do_not_fit(name, target):
    assert not TASKS[name].fits(target)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (("seed", ABSENT), "no seed"),
        (("seed", -1), "seed -1"),
        (("seed", True), "seed True"),
        (("tasks", ["gqa"]), "tasks .'gqa'."),
        (("tasks", {"gqa": {"sha256": ""}}), "tasks"),
        (("tasks", ABSENT), "no tasks"),
        (("model", None), "model None"),
        (("max_new_tokens", 0), "max_new_tokens 0"),
        (("methods", {"dense": None}), "methods"),
    ],
)
def test_a_damaged_description_is_named(folder, sheets, change, part):
    path = folder / "run.json"
    run = json.loads(path.read_text())
    name, value = change
    run[name] = value
    layouts.write_json(path, {key: one for key, one in run.items() if one is not ABSENT})
    with pytest.raises(InputError, match=rf"run.json is damaged \(it has {part}"):
        score_folder(folder)
    settings = TaskSettings(layouts.IMAGE_TASKS, folder, out=folder)
    with (
        pytest.raises(InputError, match=rf"run.json is damaged \(it has {part}"),
        open_task_store(settings, sheets),
    ):
        pass


def test_results_that_cannot_be_written_are_named(folder):
    (folder / "results.json").mkdir()  # so that no file can replace it
    with pytest.raises(InputError, match=r"results\.json cannot be written .* answers are kept"):
        score_folder(folder)


def test_a_description_that_cannot_be_read_is_named(folder):
    run = folder / "run.json"
    run.write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        score_folder(folder)
    run.unlink()
    run.mkdir()
    with pytest.raises(InputError, match=r"run\.json cannot be read \(Is a directory\)"):
        score_folder(folder)


def test_a_full_disk_before_the_start_is_named(folder, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with lock_folder(folder) as lock, monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
            lock.share()
    (folder / STOP).mkdir()
    with (
        pytest.raises(InputError, match=r"cannot be written \(.*; give another --out"),
        open_task_store(TaskSettings(layouts.IMAGE_TASKS, folder, out=folder), []),
    ):
        pass
