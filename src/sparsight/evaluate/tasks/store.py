"""The folder of an evaluation on benchmarks.

`run.json` says what it is of, `TASK.jsonl` holds every answer to a benchmark, `verdicts.jsonl` what
a judge replied, and `results.json` the scores. All scores follow from the first three.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import sparsight
from sparsight.errors import InputError
from sparsight.evaluate.folder import (
    KIND,
    RUN,
    check_same,
    describe_method,
    read_description,
    write_whole,
)
from sparsight.evaluate.tasks.data import Sheet, describe_sheets
from sparsight.evaluate.tasks.lines import (
    Reply,
    append_rows,
    build_damage_error,
    load_rows,
    read_reply,
    write_reply,
)
from sparsight.evaluate.tasks.settings import TaskSettings

TASKS_KIND = "tasks"
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


def open_task_store(settings: TaskSettings, sheets: Sequence[Sheet]) -> TaskStore:
    """Open the folder of an evaluation on benchmarks, a new one or one to be continued.

    Raises:
        InputError: the folder cannot be written, holds another evaluation, or a line of its answers
            is damaged, was given by another model, or is of another release of a benchmark.
    """
    folder = settings.out
    now = _describe(settings, sheets)
    run = _hash({name: value for name, value in now.items() if name not in ("methods", "tasks")})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = read_description(folder, "*.jsonl")
        if before is not None:
            check_same(folder, before, now)
            now["methods"] = before["methods"] | now["methods"]
            now["tasks"] = before["tasks"] | now["tasks"]
        replies = {}
        notes = []
        for sheet in sheets:
            name = sheet.task.name
            found, note = load_replies(folder / f"{name}.jsonl", run, now["methods"], repair=True)
            _check_targets(folder / f"{name}.jsonl", found, sheet)
            replies[name] = found
            notes += [note] if note else []
        write_whole(folder / RUN, now)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror or error}); give another --out."
        ) from error
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


def _hash(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH]


def hash_text(text: str) -> str:
    """Return the short hash of a prompt's text."""
    return hashlib.sha256(text.encode()).hexdigest()[:HASH]


def load_replies(
    path: Path, run: str | None, configurations: Collection[str], *, repair: bool
) -> tuple[Replies, str | None]:
    """Return the answers of a file, and a note for people.

    Args:
        path: of the file, which need not exist.
        run: hash that each line must bear; None accepts one hash, whichever it is.
        configurations: keys that a line may have.
        repair: whether a half-written last line is cut off the file.

    Raises: InputError: a line is damaged, or of another evaluation.
    """
    rows, note = load_rows(path, repair=repair)
    replies: Replies = {}
    for number, row in enumerate(rows, 1):
        try:
            reply = read_reply(row)
        except ValueError as error:
            raise build_damage_error(path, number, error) from error
        run = reply.run if run is None else run
        if reply.run != run:
            raise InputError(
                f"{path}: line {number} was answered in another evaluation (run {reply.run}, here "
                f"{run}), by another model or with other settings; move the file, or change --out."
            )
        if reply.configuration not in configurations:
            raise build_damage_error(
                path, number, f"configuration {reply.configuration!r} is not of this evaluation"
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
