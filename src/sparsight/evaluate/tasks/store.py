"""The folder of an evaluation on benchmarks.

`run.json` says what it is of, `TASK.jsonl` holds every answer to a benchmark, `verdicts.jsonl` what
a judge replied, and `results.json` the scores. All scores follow from the first three.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sparsight
from sparsight.errors import InputError
from sparsight.evaluate.folder import (
    GROWING,
    KIND,
    RUN,
    check_same,
    describe_method,
    read_description,
    write_whole,
)
from sparsight.evaluate.tasks.data import Sheet, describe_sheets
from sparsight.evaluate.tasks.description import check_description
from sparsight.evaluate.tasks.lines import (
    Reply,
    append_rows,
    build_damage_error,
    load_rows,
    read_reply,
    write_reply,
)
from sparsight.evaluate.tasks.settings import TaskSettings
from sparsight.evaluate.tasks.task import Task

try:
    import fcntl
except ImportError:  # not on Windows: there two runs that write one folder are not noticed
    fcntl = None  # type: ignore[assignment]

TASKS_KIND = "tasks"
LOCK = "run.lock"  # file that a run holds while it writes
VERDICTS = "verdicts.jsonl"
HASH = 12  # characters of a hash in a line

Replies = dict[tuple[str, str], Reply]  # by configuration and question


class TaskStore:
    """Answers on the disk, by benchmark; a batch is written as soon as it is answered.

    Args:
        folder: of the evaluation.
        run: hash of what the evaluation is of.
        replies: that the folder holds already, by name of the benchmark.
        notes: for people, on what the folder held.
    """

    def __init__(
        self, folder: Path, run: str, replies: dict[str, Replies], notes: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.run = run
        self.replies = replies
        self.notes = tuple(notes)

    def add(self, task: str, replies: Sequence[Reply]) -> None:
        """Write answers to a benchmark, through to the disk.

        Raises: InputError: they cannot be written.
        """
        append_rows(self.folder / f"{task}.jsonl", [write_reply(reply) for reply in replies])
        self.replies[task].update({reply.pair: reply for reply in replies})

    def count(self) -> int:
        """Return how many answers there are."""
        return sum(map(len, self.replies.values()))


@contextmanager
def open_task_store(settings: TaskSettings, sheets: Sequence[Sheet]) -> Iterator[TaskStore]:
    """Open the folder of an evaluation on benchmarks, a new one or one to be continued.

    No other run can open it within the block.

    Raises:
        InputError: the folder cannot be written, is being written by another run, holds another
            evaluation, or a line of its answers is damaged, stands twice, was given by another
            model, or is of another release of a benchmark.
    """
    file = _lock(settings.out)
    try:
        yield _read_store(settings, sheets)
    finally:
        os.close(file)


def _lock(folder: Path) -> int:
    """Return the open file whose lock keeps other runs out; the lock ends with the file."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise _build_unwritable_error(folder, error) from error
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if not isinstance(error, BlockingIOError):
            raise _build_unwritable_error(folder, error) from error
        raise InputError(
            f"{folder} is being written by another run; wait for it, or give another --out."
        ) from None
    return file


def _build_unwritable_error(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"{folder} cannot be written ({error.strerror or error}); give another --out."
    )


def _read_store(settings: TaskSettings, sheets: Sequence[Sheet]) -> TaskStore:
    """Read what a folder holds, and write down what its evaluation is of."""
    folder = settings.out
    now = _describe(settings, sheets)
    run = hash_run(now)
    try:
        before = read_description(folder, "*.jsonl")
        if before is not None:
            if before.get(KIND) == TASKS_KIND:
                check_description(folder, before)
            check_same(folder, before, now)
            now["methods"] = before["methods"] | now["methods"]
            now["tasks"] = before["tasks"] | now["tasks"]
        replies = {}
        notes = []
        for sheet in sheets:
            name = sheet.task.name
            found, note = load_replies(
                folder / f"{name}.jsonl", sheet.task, run, now["methods"], repair=True
            )
            _check_targets(folder / f"{name}.jsonl", found, sheet)
            replies[name] = found
            notes += [note] if note else []
        write_whole(folder / RUN, now)
    except OSError as error:
        raise _build_unwritable_error(folder, error) from error
    return TaskStore(folder, run, replies, notes)


def _describe(settings: TaskSettings, sheets: Sequence[Sheet]) -> dict[str, Any]:
    """Return what must not change while an evaluation is continued."""
    return {
        KIND: TASKS_KIND,
        "sparsight": sparsight.__version__,
        "model": settings.model,
        "model_files": settings.files,
        "dtype": settings.dtype,
        "seed": settings.seed,
        "max_new_tokens": settings.max_new_tokens,
        "tasks": describe_sheets(sheets),
        "methods": {one.key: describe_method(one.method) for one in settings.configurations},
    }


def hash_run(description: Mapping[str, Any]) -> str:
    """Return the short hash of what an evaluation is of, without what may be added to it."""
    fixed = {name: value for name, value in description.items() if name not in GROWING}
    return hash_text(json.dumps(fixed, sort_keys=True))


def hash_text(text: str) -> str:
    """Return the short hash of a text, such as a prompt."""
    return hashlib.sha256(text.encode()).hexdigest()[:HASH]


def load_replies(
    path: Path, task: Task, run: str, configurations: Collection[str], *, repair: bool
) -> tuple[Replies, str | None]:
    """Return the answers of a file, and a note for people.

    Args:
        path: of the file, which need not exist.
        task: that is answered.
        run: hash that each line must bear.
        configurations: keys that a line may have.
        repair: whether a half-written last line is cut off the file.

    Raises: InputError: a line is damaged, stands twice, or is of another evaluation.
    """
    rows, note = load_rows(path, repair=repair)
    replies: Replies = {}
    for number, row in enumerate(rows, 1):
        try:
            reply = read_reply(row)
        except ValueError as error:
            raise build_damage_error(path, number, error) from error
        if reply.run != run:
            raise InputError(
                f"{path}: line {number} was answered in another evaluation (run {reply.run}, here "
                f"{run}), by another model or with other settings; move the file, or change --out."
            )
        if reply.configuration not in configurations:
            raise build_damage_error(
                path, number, f"configuration {reply.configuration!r} is not of this evaluation"
            )
        if not task.fits(reply.target):
            raise build_damage_error(path, number, f"its target is none of {task.title}")
        if reply.pair in replies:
            raise build_damage_error(
                path, number, f"{reply.configuration} has answered question {reply.id} before"
            )
        replies[reply.pair] = reply
    return replies, note


def _check_targets(path: Path, replies: Replies, sheet: Sheet) -> None:
    """Raise InputError if an answer is to another question than the one that has its id now."""
    items = {item.id: item for item in sheet.items}
    for reply in replies.values():
        item = items.get(reply.id)
        if item is None:  # of a larger limit
            continue
        if reply.prompt != hash_text(item.text) or reply.target != item.target:
            raise InputError(
                f"{path} holds an answer to another question {reply.id} of {sheet.task.title}: it "
                "is of another release; give another --out."
            )
