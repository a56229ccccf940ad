"""The folder of an evaluation on benchmarks.

`run.json` says what it is of, `TASK.jsonl` holds every answer to a benchmark, `verdicts.jsonl` what
a judge replied, and `results.json` the scores. All scores follow from the first three. While
several processes answer, each has a part of its own beside `TASK.jsonl`; see `answers`.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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
from sparsight.evaluate.lock import build_unwritable_error, join_lock, lock_folder
from sparsight.evaluate.tasks.answers import ANSWERS, Replies, load_answers, name_file
from sparsight.evaluate.tasks.data import Sheet, describe_sheets
from sparsight.evaluate.tasks.description import check_description
from sparsight.evaluate.tasks.lines import Reply, append_rows, write_reply
from sparsight.evaluate.tasks.ranks import ALONE, Ranks
from sparsight.evaluate.tasks.settings import TaskSettings

TASKS_KIND = "tasks"
STOP = "run.stop"  # file that a process writes when it fails, so that the others stop
VERDICTS = "verdicts.jsonl"
HASH = 12  # characters of a hash in a line


class TaskStore:
    """Answers on the disk, by benchmark; a batch is written as soon as it is answered.

    Args:
        folder: of the evaluation.
        run: hash of what the evaluation is of.
        replies: that the folder holds already, by name of the benchmark.
        notes: for people, on what the folder held.
        ranks: the place of this process among those that write.
    """

    def __init__(
        self,
        folder: Path,
        run: str,
        replies: dict[str, Replies],
        notes: Sequence[str] = (),
        ranks: Ranks = ALONE,
    ) -> None:
        self.folder = folder
        self.run = run
        self.replies = replies
        self.notes = tuple(notes)
        self._ranks = ranks

    def add(self, task: str, replies: Sequence[Reply]) -> None:
        """Write answers to a benchmark, through to the disk.

        Raises: InputError: they cannot be written.
        """
        alone = self._ranks.count == 1
        path = name_file(self.folder, task, None if alone else self._ranks.index)
        append_rows(path, [write_reply(reply) for reply in replies])
        self.replies[task].update({reply.pair: reply for reply in replies})

    def count(self) -> int:
        """Return how many answers there are, without those that other processes gave meanwhile."""
        return sum(map(len, self.replies.values()))

    def is_stopped(self) -> bool:
        """Return whether another process has failed, so that this one does not go on."""
        return self._ranks.count > 1 and (self.folder / STOP).exists()

    def collect(self, sheets: Sequence[Sheet]) -> None:
        """Take in what all processes wrote; none of them may be writing any more.

        Raises: InputError: a line is damaged or stands twice, or the folder cannot be written.
        """
        methods = _read_methods(self.folder)
        for sheet in sheets:
            self.replies[sheet.task.name], _ = load_answers(
                self.folder, sheet.task, self.run, methods, repair=True
            )


def _read_methods(folder: Path) -> Collection[str]:
    description = read_description(folder, ANSWERS)
    return description["methods"] if description is not None else ()


@contextmanager
def open_task_store(
    settings: TaskSettings, sheets: Sequence[Sheet], ranks: Ranks = ALONE
) -> Iterator[TaskStore]:
    """Open the folder of an evaluation on benchmarks, a new one or one to be continued.

    No other run can open it within the block. Of several processes, number 0 opens and repairs it,
    and the others read it then, so that all hold the same answers.

    Raises:
        InputError: the folder cannot be written, is being written by another run, holds another
            evaluation, or a line of its answers is damaged, stands twice, was given by another
            model, or is of another release of a benchmark.
        ProcessError: the processes see different folders.
    """
    with ExitStack() as stack:
        token = ""
        with ranks.share_errors():
            if ranks.leads:
                lock = stack.enter_context(lock_folder(settings.out))
                store = _read_store(settings, sheets, ranks)
                _remove_stop(settings.out)
                token = lock.share() if ranks.count > 1 else ""
        token = ranks.exchange(token)[0]
        with ranks.share_errors():
            if not ranks.leads:
                stack.enter_context(join_lock(settings.out, token, ranks.index))
                store = _read_store(settings, sheets, ranks)
        yield store


def _remove_stop(folder: Path) -> None:
    """Take away what an earlier run left when one of its processes failed."""
    try:
        (folder / STOP).unlink(missing_ok=True)
    except OSError as error:
        raise build_unwritable_error(folder, error) from error


def _read_store(settings: TaskSettings, sheets: Sequence[Sheet], ranks: Ranks) -> TaskStore:
    """Read what a folder holds; process 0 mends it, and writes down what its evaluation is of."""
    folder = settings.out
    now = _describe(settings, sheets)
    run = hash_run(now)
    try:
        before = read_description(folder, ANSWERS)
        if before is not None:
            if before.get(KIND) == TASKS_KIND:
                check_description(folder, before)
            check_same(folder, before, now)
            now["methods"] = before["methods"] | now["methods"]
            now["tasks"] = before["tasks"] | now["tasks"]
        replies = {}
        notes: list[str] = []
        for sheet in sheets:
            name = sheet.task.name
            replies[name], found = load_answers(
                folder, sheet.task, run, now["methods"], repair=ranks.leads
            )
            _check_targets(name_file(folder, name), replies[name], sheet)
            notes += found
        if ranks.leads:
            write_whole(folder / RUN, now)
    except OSError as error:
        raise build_unwritable_error(folder, error) from error
    return TaskStore(folder, run, replies, notes, ranks)


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
