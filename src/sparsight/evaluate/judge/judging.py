"""Asks a judge about all answers that it has not marked yet; each verdict is written at once."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsight.errors import InputError, SettingError, SparsightError
from sparsight.evaluate.judge.client import Endpoint
from sparsight.evaluate.judge.wordings import Wording
from sparsight.evaluate.tasks.lines import Reply, append_rows, build_damage_error, load_rows
from sparsight.evaluate.tasks.task import Task

AT_ONCE = 4
READS = 3  # times that an answer is asked about before it stays unjudged
FIELDS = ("key", "task", "asked_judge", "judge", "wording", "reply")
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Judge:
    """Who marks answers, and how it is asked.

    Args:
        model: name that the endpoint is asked for.
        wordings: by name.
        endpoint: where it answers; None where verdicts are only looked up.
    """

    model: str
    wordings: Mapping[str, Wording]
    endpoint: Endpoint | None = None

    def make_key(self, task: Task, reply: Reply) -> str:
        """Return what a verdict is found by: a hash of all that it depends on."""
        parts = [
            task.wording,
            self.wordings[task.wording].digest,
            self.model,
            reply.question,
            reply.target,
            reply.prediction,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


class Verdicts:
    """What judges replied, on the disk.

    Args:
        path: of the file, which need not exist.
        repair: whether a half-written last line is cut off the file, which only the run that holds
            its lock may do: for others the line is one that is being written.

    Raises: InputError: a line of it is damaged.
    """

    def __init__(self, path: Path, *, repair: bool) -> None:
        self.path = path
        rows, self.note = load_rows(path, repair=repair)
        self.rows: dict[str, dict[str, Any]] = {}
        for number, row in enumerate(rows, 1):
            odd = [name for name in FIELDS if not isinstance(row.get(name), str)]
            if odd:
                raise build_damage_error(path, number, f"{odd[0]} is no text")
            self.rows[row["key"]] = row

    def read(self, judge: Judge, task: Task, reply: Reply) -> str | None:
        """Return what a judge replied about an answer; None where it was not asked."""
        row = self.rows.get(judge.make_key(task, reply))
        return None if row is None else str(row["reply"])

    def add(self, row: dict[str, Any]) -> None:
        """Write a verdict, through to the disk."""
        append_rows(self.path, [row])
        self.rows[row["key"]] = row

    def names(self) -> list[str]:
        """Return the judges that the endpoints named."""
        return sorted({row["judge"] for row in self.rows.values()})


def find_only_judge(verdicts: Verdicts, wordings: Mapping[str, Wording]) -> Judge | None:
    """Return the judge whose verdicts a folder holds; None without verdicts.

    Raises: SettingError: there are several.
    """
    names = sorted({row["asked_judge"] for row in verdicts.rows.values()})
    if len(names) > 1:
        raise SettingError(
            f"{verdicts.path} holds verdicts of {', '.join(names)}; say which with --judge-model."
        )
    return Judge(names[0], wordings) if names else None


def judge_all(
    judge: Judge,
    replies: Iterable[tuple[Task, Reply]],
    verdicts: Verdicts,
    report: Report | None = None,
) -> None:
    """Ask a judge about answers that have no verdict that can be read.

    Args:
        judge: with an endpoint.
        replies: answers, with their benchmarks.
        verdicts: that exist; new ones are added.
        report: called with the number of verdicts given and in total.

    Raises:
        ModelError: the endpoint refuses, or fails again and again. Verdicts so far are kept.
        SettingError: the judge has no endpoint, or its key is unusable.
    """
    endpoint = judge.endpoint
    if endpoint is None:
        raise SettingError("the judge has no address; give --judge.")
    open_ones: dict[str, tuple[Task, Reply]] = {}
    for task, reply in replies:
        known = verdicts.read(judge, task, reply)
        if known is None or task.mark(known, "") is None:
            open_ones[judge.make_key(task, reply)] = (task, reply)
    report = report or _report_nothing
    report(0, len(open_ones))
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        waiting = [
            pool.submit(_ask, judge, endpoint, key, *pair) for key, pair in open_ones.items()
        ]
        _collect(waiting, verdicts, report)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _collect(waiting: list[Future[dict[str, Any]]], verdicts: Verdicts, report: Report) -> None:
    """Write verdicts as they come; after a failure write those that are under way, and raise it."""
    failure: SparsightError | None = None
    done = 0
    for future in as_completed(waiting):
        if future.cancelled():
            continue
        try:
            verdicts.add(future.result())
        except SparsightError as error:
            failure = failure or error
            for other in waiting:
                other.cancel()
        done += 1
        report(done, len(waiting))
    if failure is not None:
        raise failure


def _report_nothing(done: int, total: int) -> None:
    """Take a report that nobody asked for."""


def _ask(judge: Judge, endpoint: Endpoint, key: str, task: Task, reply: Reply) -> dict[str, Any]:
    """Return the verdict on one answer, asked for again while it cannot be read."""
    wording = judge.wordings[task.wording]
    if not isinstance(reply.target, str):
        raise InputError(f"the answer to {reply.id} of {task.title} is no text.")
    messages = wording.write(reply.question, reply.target, reply.prediction)
    text = name = ""
    for _ in range(READS):
        text, name = endpoint.ask(messages)
        if task.mark(text, reply.target) is not None:
            break
    return {
        "key": key,
        "task": task.name,
        "asked_judge": judge.model,
        "judge": name,
        "wording": wording.digest,
        "reply": text[:2000],
    }
