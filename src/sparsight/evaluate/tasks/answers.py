"""The answers to a benchmark on the disk: `TASK.jsonl`, and parts that several processes write.

Process K writes `TASK.rank-K.jsonl`. Parts are always read with `TASK.jsonl`, also after a crash.
They are merged into it at the end, or when the evaluation is opened next.
"""

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from sparsight.errors import InputError
from sparsight.evaluate.tasks.lines import (
    Reply,
    build_damage_error,
    format_row,
    load_rows,
    read_reply,
    write_reply,
)
from sparsight.evaluate.tasks.task import Task

ANSWERS = "*.jsonl"  # names of files of answers
PART = re.compile(r"\.rank-(\d+)\.jsonl$")

Replies = dict[tuple[str, str], Reply]  # by configuration and question


def name_file(folder: Path, task: str, index: int | None = None) -> Path:
    """Return the file of answers to a benchmark, or the part of it that a process writes."""
    return folder / (f"{task}.jsonl" if index is None else f"{task}.rank-{index}.jsonl")


def list_parts(folder: Path, task: str) -> list[Path]:
    """Return the parts of a benchmark that are not merged, in the order of their processes."""
    found = []
    for path in folder.glob(f"{task}.rank-*.jsonl"):
        match = PART.search(path.name)
        if match is not None:
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found)]


def load_answers(
    folder: Path, task: Task, run: str, configurations: Collection[str], *, repair: bool
) -> tuple[Replies, list[str]]:
    """Return all answers to a benchmark, and notes for people.

    A line that stands both in `TASK.jsonl` and in a part, alike in every field, is what a merge
    leaves that was cut off; it counts once.

    Args:
        folder: of the evaluation.
        task: that is answered.
        run: hash that each line must bear.
        configurations: keys that a line may have.
        repair: whether half-written last lines are cut off, and parts are merged.

    Raises:
        InputError: a line is damaged, stands twice, or is of another evaluation, or parts cannot be
            merged.
    """
    path = name_file(folder, task.name)
    parts = list_parts(folder, task.name)
    replies: Replies = {}
    notes = []
    for file in (path, *parts):
        found, note = load_replies(file, task, run, configurations, repair=repair)
        for number, reply in enumerate(found.values(), 1):
            if replies.setdefault(reply.pair, reply) != reply:
                raise build_damage_error(file, number, _say_twice(reply))
        notes += [note] if note else []
    if repair and parts:
        _merge(path, parts, replies)
    return replies, notes


def _merge(path: Path, parts: Sequence[Path], replies: Replies) -> None:
    """Write all answers to one file, whole or not at all, and take the parts away then."""
    new = path.with_name(path.name + ".new")
    try:
        with new.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(format_row(write_reply(reply)) for reply in replies.values())
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        for part in parts:
            part.unlink()
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}); its parts of several processes "
            "are kept. Mend that, and run the same command again."
        ) from error


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
            raise build_damage_error(path, number, _say_twice(reply))
        replies[reply.pair] = reply
    return replies, note


def _say_twice(reply: Reply) -> str:
    return f"{reply.configuration} has answered question {reply.id} before"
