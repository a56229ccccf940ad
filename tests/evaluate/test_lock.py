"""One run at a time writes the folder of an evaluation, of scenes as of benchmarks."""

import errno
import json
import os
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from sparsight.cli import app
from sparsight.cli import evaluate as command
from sparsight.errors import InputError, SettingError
from sparsight.evaluate import DENSE, Settings, open_store, run
from sparsight.evaluate.folder import write_whole
from sparsight.evaluate.lock import lock_folder
from sparsight.evaluate.scenes import compose_suite
from sparsight.serve.batch import files
from tests.support import tiny, tiny_processor

BUSY = "is being written by another run; wait for it, or give another --out"


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    compose_suite(3, "test", share=0.03).write(folder)
    return folder


@pytest.fixture
def settings(suite, tmp_path):
    """Settings of an evaluation of one question."""
    return Settings(
        (DENSE,), suite=suite, out=tmp_path, max_new_tokens=3, families=("place",), limit=1
    )


def check_busy(settings):
    """Check that no second run can open the folder."""
    with pytest.raises(InputError, match=BUSY):
        open_store(settings)


def test_an_open_folder_is_refused_until_it_is_closed(settings):
    with open_store(settings):
        check_busy(settings)
    with open_store(settings):
        pass


def test_benchmarks_and_scenes_keep_each_other_out(settings):
    with lock_folder(settings.out):
        check_busy(settings)
    with open_store(settings), pytest.raises(InputError, match=BUSY):
        lock_folder(settings.out).__enter__()


def test_a_refused_folder_is_left_open_to_others(settings):
    (settings.out / "answers.jsonl").write_text("")
    with pytest.raises(InputError, match="holds answers without"):
        open_store(settings)
    with lock_folder(settings.out):
        pass


def test_a_folder_whose_answers_cannot_be_opened_is_left_open_to_others(settings):
    answers = settings.out / "answers.jsonl"
    answers.symlink_to(settings.out / "gone" / "answers.jsonl")
    with pytest.raises(InputError, match="cannot be written") as refused:
        open_store(settings)
    assert refused.value  # while it is kept, with all that it refers to
    answers.unlink()
    with open_store(settings):
        pass


class Full:
    """A file on a disk that has room for so many bytes."""

    closed = False

    def __init__(self, room):
        self.room = room

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count, self.room = min(len(data), self.room), 0
        return count


def test_answers_that_a_full_disk_does_not_take_are_named_with_their_file(settings, monkeypatch):
    model, processor = tiny.tiny_llava(dtype=torch.float32), tiny_processor.processor()
    answers = settings.out / "answers.jsonl"
    with open_store(settings) as store:
        monkeypatch.setattr(store, "_file", Full(5))
        with pytest.raises(InputError, match=f"{answers} cannot be written .No space left"):
            run(model, processor, settings, store=store)
        assert not store.records
    assert not answers.stat().st_size
    run(model, processor, settings)
    assert answers.read_bytes().count(b"\n") == 1


def test_a_store_is_closed_twice_without_harm_and_takes_no_run_then(settings):
    model, processor = tiny.tiny_llava(dtype=torch.float32), tiny_processor.processor()
    store = open_store(settings)
    assert not store.closed
    store.close()
    store.close()
    with pytest.raises(SettingError, match="the store is closed"):
        run(model, processor, settings, store=store)
    other = replace(settings, out=settings.out / "other")
    with open_store(settings) as store:
        with pytest.raises(SettingError, match=f"is that of {settings.out}, .* out={other.out}"):
            run(model, processor, other, store=store)
        assert not other.out.exists()


@pytest.mark.parametrize("write", [write_whole, files.write_whole])
def test_a_path_that_is_no_utf8_is_written_and_comes_back(tmp_path, write):
    document = {"command": "--out \udc80", "model": "\u00fc\u2028"}
    write(tmp_path / "run.json", document)
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8")) == document
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write(tmp_path / "folder", document)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "run.json"]


def test_a_run_keeps_others_out_until_its_results_are_written(settings, monkeypatch):
    seen = []

    def watch(done, total):
        check_busy(settings)
        seen.append(done)

    model = tiny.tiny_llava(dtype=torch.float32)
    written = "sparsight.evaluate.runner.write_results"
    monkeypatch.setattr(written, lambda *_: check_busy(settings))
    run(model, tiny_processor.processor(), settings, report=watch)
    assert seen == [0, 1]
    with open_store(settings) as store:
        assert len(store.records) == 1


def test_the_command_keeps_others_out_while_it_loads_the_model(settings, monkeypatch):
    folder = tiny_processor.save(settings.out / "model")
    plain, calls = command.load_model, []

    def load(*args):
        check_busy(settings)
        calls.append(args)
        return plain(*args)

    monkeypatch.setattr(command, "load_model", load)
    words = ["eval", "--suite", settings.suite, "--model", folder, "--out", settings.out]
    words += ["--methods", "dense", "--families", "place", "--limit", 1]
    shown = CliRunner().invoke(app, list(map(str, words)))
    assert shown.exit_code == 0, shown.output
    assert len(calls) == 1
    with lock_folder(settings.out):
        refused = CliRunner().invoke(app, list(map(str, words)))
    assert refused.exit_code == 2
    assert BUSY in refused.stderr
    assert len(calls) == 1
