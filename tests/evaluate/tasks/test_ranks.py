"""Sharing out, joining parts, and what is refused before several processes start."""

import itertools
import json
from types import SimpleNamespace

import pytest
import torch
from torch import distributed

from sparsight import errors
from sparsight.cli import processes as command
from sparsight.errors import BudgetError, InputError, ProcessError, SettingError
from sparsight.evaluate.lock import join_lock, lock_folder
from sparsight.evaluate.tasks import find_tasks, processes, read_sheets
from sparsight.evaluate.tasks.answers import list_parts, name_file
from sparsight.evaluate.tasks.processes import Launch, connect, read_launch, starts_one_of_several
from sparsight.evaluate.tasks.ranks import (
    ALONE,
    Ended,
    Ranks,
    describe_error,
    restore_error,
    shorten_reason,
)
from sparsight.evaluate.tasks.runner import Refusal, count_open, list_first, order_refusals
from sparsight.evaluate.tasks.scores import score_folder
from sparsight.evaluate.tasks.settings import TaskSettings
from sparsight.evaluate.tasks.store import open_task_store
from tests.evaluate.tasks.test_tasks import call
from tests.support import layouts, tiny_processor

SEVERAL = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}


# ---- sharing out


@pytest.mark.parametrize("count", [1, 2, 3, 5, 20])
def test_every_batch_has_one_process(count):
    batches = [f"batch {number}" for number in range(11)]
    shares = [list(Ranks(index, count).pick(batches)) for index in range(count)]
    assert sorted(itertools.chain.from_iterable(shares)) == sorted(enumerate(batches))
    sizes = list(map(len, shares))
    assert max(sizes) - min(sizes) <= 1


def test_shares_make_up_what_is_open(tmp_path):
    layouts.write_gqa(tmp_path, count=7)
    settings = TaskSettings(("gqa",), tmp_path, batch=2, out=tmp_path / "out")
    sheets = read_sheets(find_tasks(settings.tasks), tmp_path)
    with open_task_store(settings, sheets) as store:
        shares = [count_open(settings, sheets, store, Ranks(index, 3)) for index in range(3)]
        assert shares == [3, 2, 2]
        assert count_open(settings, sheets, store) == 7


def test_refusals_are_ordered_as_one_process_meets_them():
    late = Refusal(4, "b", "gqa", "BudgetError", "late")
    early = Refusal(1, "b", "gqa", "BudgetError", "early")
    other = Refusal(1, "a", "gqa", "UnsupportedError", "other")
    ordered = order_refusals([late, early, other])  # the first two of different processes
    assert ordered == [early, other, late]
    assert list_first(ordered) == {"b": {"gqa": "early"}, "a": {"gqa": "other"}}


# ---- errors


class OwnError(BudgetError):
    """An error of somebody's method."""


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (InputError("gone"), InputError, "process 2: gone"),
        (OwnError("tight"), BudgetError, "process 2: tight"),
        (ZeroDivisionError("odd"), RuntimeError, "process 2: ZeroDivisionError: odd"),
    ],
)
def test_errors_travel(error, kind, text):
    sent = json.loads(json.dumps(describe_error(error)))
    found = restore_error(*sent, "process 2: ")
    assert type(found) is kind
    assert str(found) == text


def test_names_of_other_things_make_no_error():
    assert "TESTED" in vars(errors)
    assert type(restore_error("TESTED", "x")) is RuntimeError


def test_one_process_raises_its_own():
    with pytest.raises(InputError, match="gone"), ALONE.share_errors():
        raise InputError("gone")
    assert ALONE.exchange({"a": 1}) == [{"a": 1}]


@pytest.mark.parametrize(("index", "told"), [(0, ["process 1: gone"]), (1, [])])
def test_an_error_of_one_ends_all(monkeypatch, index, told, tmp_path):
    """Both processes meet twice: to say what failed, and after process 0 has told it."""
    heard = []

    def tell(error):
        heard.append(str(error))
        return 2

    answers = [[None, ["InputError", "gone"]], [2, 0]]
    monkeypatch.setattr(Ranks, "exchange", lambda self, document: answers.pop(0))
    flag = tmp_path / "run.stop"

    def work():
        with Ranks(index, 2, tell).share_errors(flag):
            if index:
                raise InputError("gone")

    with pytest.raises(Ended) as end:
        work()
    assert end.value.code == 2
    assert heard == told
    assert flag.exists() == bool(index)


def test_reasons_are_short():
    text = "[/source/pair.cc:553] Connection closed by peer [127.0.0.1]:5. This is typical. More"
    assert shorten_reason(RuntimeError(text)) == "Connection closed by peer [127.0.0.1]:5"
    assert shorten_reason(RuntimeError("")) == "RuntimeError"


# ---- the environment and accelerate


def test_the_launcher_is_read():
    assert read_launch({}) == read_launch({"WORLD_SIZE": "1"}) == Launch()
    assert read_launch(SEVERAL) == Launch(3, 4, 1)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"RANK": None}, "RANK is not set"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK is 'x'"),
        ({"RANK": "4"}, r"RANK is '4' in .* process, 0 to 3 for WORLD_SIZE=4\. Start"),
        ({"RANK": "-1"}, "RANK is '-1'"),
        ({"RANK": "0"}, r"LOCAL_RANK is '1' in .* on its machine, 0 to 0 for RANK=0\. Start"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK is '-1'"),
        ({"WORLD_SIZE": "1"}, r"RANK is '3' in .* 0 to 0 for WORLD_SIZE=1\. Start"),
        ({"WORLD_SIZE": "0"}, r"WORLD_SIZE is '0' in .* number of processes, 1 or more\. Start"),
        ({"WORLD_SIZE": "-4"}, "WORLD_SIZE is '-4'"),
        ({"WORLD_SIZE": "4_0"}, "WORLD_SIZE is '4_0'"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is ''"),
        ({"WORLD_SIZE": "four"}, "WORLD_SIZE is 'four' .* unset WORLD_SIZE for one process"),
        ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE is '99"),
    ],
)
def test_odd_launches_are_refused(changes, part):
    environment = {name: text for name, text in (SEVERAL | changes).items() if text is not None}
    with pytest.raises(SettingError, match=part):
        read_launch(environment)


def test_an_odd_launch_is_named_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "0")
    shown = call("--tasks", "gqa", "--data", tmp_path, "--out", tmp_path / "out")
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert "error: WORLD_SIZE is '0' in the environment; it is the number of" in shown.stderr
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("RANK", "0")
    assert "WORLD_SIZE is '0'" in call("--out", tmp_path / "out").stderr


def test_one_process_in_place_of_several_is_noticed():
    started = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500"}
    assert starts_one_of_several(started)
    assert not starts_one_of_several(started | {"RANK": "0"})
    assert not starts_one_of_several({"MASTER_PORT": "29500"})


def join(launch=Launch(1, 2, 1), cpu=True):  # noqa: B008 - frozen
    with connect(launch, cpu=cpu, tell=int) as found:
        return found


def fake(monkeypatch, **changes):
    """Put another accelerate in place; what it makes has the attributes that are given."""
    made = {"process_index": 1, "num_processes": 2, "device": torch.device("cpu")} | changes

    class PartialState:
        def __init__(self, cpu, backend, timeout):
            if "fails" in made:
                raise ValueError(made["fails"])
            self.__dict__.update({name: one for name, one in made.items() if one is not None})

        def destroy_process_group(self):
            pass

    room = SimpleNamespace(__version__="9.9", PartialState=PartialState)
    monkeypatch.setattr(processes, "find_spec", lambda name: name)
    monkeypatch.setattr(processes, "import_module", lambda name: room)
    monkeypatch.setattr(distributed, "new_group", lambda **options: "group")
    return room


def test_accelerate_gives_place_and_device(monkeypatch):
    fake(monkeypatch)
    ranks, device = join()
    assert (ranks.index, ranks.count, ranks.group) == (1, 2, "group")
    assert device.type == "cpu"
    fake(monkeypatch, device=torch.device("cuda", 1))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert join(cpu=False)[1] == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"device": None}, "PartialState has no device"),
        ({"num_processes": 1}, "process 1 of 1 on cpu, and the environment has process 1 of 2"),
        ({"device": torch.device("cuda", 0)}, "on cuda:0"),
        ({"fails": "no port"}, r"accelerate 9.9 cannot connect process 1 to the other 1 \(no port"),
    ],
)
def test_another_accelerate_is_refused(monkeypatch, changes, part):
    fake(monkeypatch, **changes)
    with pytest.raises(ProcessError, match=part):
        join()


def test_what_accelerate_lacks_is_named(monkeypatch):
    room = fake(monkeypatch)
    del room.PartialState.destroy_process_group
    with pytest.raises(ProcessError, match=r"has no PartialState\.destroy_process_group"):
        join()
    del room.PartialState
    with pytest.raises(ProcessError, match=r"accelerate 9\.9 has no PartialState;"):
        join()
    monkeypatch.setattr(processes, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r'pip install "sparsight\[gpus\]"'):
        join()


def test_a_process_needs_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SettingError, match="process 1 of this machine has no GPU of its own"):
        join(cpu=False)


def test_one_device_is_not_for_several_processes(monkeypatch, tmp_path):
    for name, text in SEVERAL.items():
        monkeypatch.setenv(name, text)
    folder = tiny_processor.save(tmp_path / "model")
    words = ["--tasks", "gqa", "--data", tmp_path, "--model", folder, "--out", tmp_path / "out"]
    for device in ("mps", "cuda:1"):
        shown = call(*words, "--device", device)
        assert shown.exit_code == 2
        assert f"--device '{device}' names one device for 4 processes" in shown.stderr


def test_only_benchmarks_are_shared(monkeypatch, tmp_path):
    for name, text in SEVERAL.items():
        monkeypatch.setenv(name, text)
    for words in (["--out", tmp_path / "out"], ["--score", tmp_path]):
        shown = call(*words)
        assert shown.exit_code == 2
        assert "4 processes" in shown.stderr
        assert "share --tasks alone" in shown.stderr
    assert not (tmp_path / "out").exists()


def test_a_lone_process_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_PORT", "29500")
    shown = call("--tasks", "gqa", "--data", tmp_path, "--out", tmp_path / "out")
    assert "note: accelerate launch started one process only" in shown.stderr
    assert command.name_command("eval", ALONE) == "sparsight eval"


# ---- one folder


def test_processes_of_one_run_share_a_folder(tmp_path):
    with lock_folder(tmp_path) as lock:
        token = lock.share()
        with join_lock(tmp_path, token, 1), pytest.raises(InputError, match="by another run"):
            lock_folder(tmp_path).__enter__()
    with lock_folder(tmp_path):
        pass


def test_another_folder_is_refused(tmp_path):
    with lock_folder(tmp_path / "here") as lock, lock_folder(tmp_path / "there") as other:
        other.share()
        for folder in (tmp_path / "there", tmp_path / "nowhere"):
            with (
                pytest.raises(ProcessError, match="is not the folder that process 0 writes"),
                join_lock(folder, lock.share(), 3),
            ):
                pass


# ---- parts


@pytest.fixture
def parted(tmp_path):
    """A finished folder whose answers lie in TASK.jsonl and two parts; settings and sheets."""
    data = tmp_path / "data"
    layouts.write_gqa(data, count=6)
    model = tiny_processor.save(tmp_path / "model")
    out = tmp_path / "out"
    words = ["--tasks", "gqa", "--data", data, "--model", model, "--methods", "dense", "--out", out]
    assert call(*words, "--max-new-tokens", 2).exit_code == 0
    lines = name_file(out, "gqa").read_text().splitlines(keepends=True)
    name_file(out, "gqa").write_text("".join(lines[:2]))
    name_file(out, "gqa", 10).write_text("".join(lines[2:3]))
    name_file(out, "gqa", 2).write_text("".join(lines[3:]))
    run = json.loads((out / "run.json").read_text())
    settings = TaskSettings(
        ("gqa",), data, max_new_tokens=2, model=str(model), files=run["model_files"], out=out
    )
    return settings, read_sheets(find_tasks(("gqa",)), data), lines


def reopen(settings, sheets):
    with open_task_store(settings, sheets) as store:
        return store


def test_parts_are_read_and_merged(parted):
    settings, sheets, lines = parted
    assert [path.name for path in list_parts(settings.out, "gqa")] == [
        "gqa.rank-2.jsonl",
        "gqa.rank-10.jsonl",
    ]
    results = score_folder(settings.out)
    assert results["configurations"][0]["tasks"]["gqa"]["n"] == 6
    assert len(list_parts(settings.out, "gqa")) == 2  # scoring changes no answers
    store = reopen(settings, sheets)
    assert store.count() == 6
    assert not store.notes
    assert not list_parts(settings.out, "gqa")
    merged = name_file(settings.out, "gqa").read_text().splitlines(keepends=True)
    assert sorted(merged) == sorted(lines)


def test_a_merge_that_was_cut_off_doubles_nothing(parted):
    settings, sheets, lines = parted
    name_file(settings.out, "gqa").write_text("".join(lines))  # the parts were not taken away
    assert score_folder(settings.out)["configurations"][0]["tasks"]["gqa"]["n"] == 6
    assert reopen(settings, sheets).count() == 6
    assert name_file(settings.out, "gqa").read_text() == "".join(lines)


def test_two_answers_to_one_question_are_refused(parted):
    settings, sheets, lines = parted
    other = json.loads(lines[0]) | {"prediction": "another"}
    with name_file(settings.out, "gqa", 10).open("a") as file:
        file.write(json.dumps(other) + "\n")
    with pytest.raises(InputError, match=r"rank-10\.jsonl: line 2 is damaged .*200 before"):
        reopen(settings, sheets)
    assert len(list_parts(settings.out, "gqa")) == 2


def test_a_half_written_part_loses_its_last_line_only(parted):
    settings, sheets, _ = parted
    path = name_file(settings.out, "gqa", 2)
    path.write_bytes(path.read_bytes()[:-20])
    store = reopen(settings, sheets)
    assert store.count() == 5
    assert "gqa.rank-2.jsonl was half-written" in store.notes[0]


def test_parts_of_another_evaluation_are_refused(parted):
    settings, sheets, lines = parted
    odd = json.loads(lines[2]) | {"run": "0" * 12}
    name_file(settings.out, "gqa", 10).write_text(json.dumps(odd) + "\n")
    with pytest.raises(InputError, match=r"rank-10\.jsonl: line 1 was answered in another"):
        reopen(settings, sheets)


def test_parts_that_cannot_be_merged_are_kept(parted):
    settings, sheets, _ = parted
    (settings.out / "gqa.jsonl.new").mkdir()
    with pytest.raises(InputError, match="its parts of several processes are kept"):
        reopen(settings, sheets)
    assert len(list_parts(settings.out, "gqa")) == 2
