"""Scores the folder of an evaluation on benchmarks, from its files alone; no model is needed."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsight.errors import InputError
from sparsight.evaluate.folder import KIND, RESULTS, read_description, write_whole
from sparsight.evaluate.judge.judging import Judge, Verdicts, find_only_judge
from sparsight.evaluate.judge.wordings import OWN
from sparsight.evaluate.scoring import RESAMPLES
from sparsight.evaluate.tasks.answers import ANSWERS, Replies, load_answers
from sparsight.evaluate.tasks.catalogue import TASKS
from sparsight.evaluate.tasks.description import check_description
from sparsight.evaluate.tasks.lines import Reply
from sparsight.evaluate.tasks.published import add_published, read_published
from sparsight.evaluate.tasks.results import compute_task_results
from sparsight.evaluate.tasks.store import TASKS_KIND, VERDICTS, hash_run
from sparsight.evaluate.tasks.task import Task

Tell = Callable[[str], None]
HEADING = ("command", "refused", "prompts", "padding", "facts")  # of the run that asked last


def read_run(folder: Path) -> dict[str, Any]:
    """Return what a folder's evaluation is of.

    Raises: InputError: it holds no evaluation on benchmarks, or its description is damaged.
    """
    run = read_description(folder, ANSWERS) if folder.is_dir() else None
    if run is None or run.get(KIND) != TASKS_KIND:
        raise InputError(f"{folder} holds no evaluation on benchmarks; give the --out of one.")
    check_description(folder, run)
    unknown = [name for name in run["tasks"] if name not in TASKS]
    if unknown:
        raise InputError(f"{folder} has the task {unknown[0]!r}, which this version does not know.")
    return run


def _tell_nobody(note: str) -> None:
    """Take a note that nobody asked for."""


def score_folder(
    folder: Path,
    *,
    judge: Judge | None = None,
    keys: Sequence[str] | None = None,
    asked: Mapping[str, Sequence[str]] | None = None,
    heading: Mapping[str, Any] | None = None,
    tell: Tell = _tell_nobody,
) -> dict[str, Any]:
    """Score the answers of a folder, write its results, and return them.

    Args:
        folder: of the evaluation.
        judge: whose verdicts count; None for the only one of the folder.
        keys: of configurations, in the order of the results; None for all.
        asked: ids of questions that count, by benchmark; None for all that were answered.
        heading: facts on the run that asked; None for those of the earlier results.
        tell: takes notes for people, on lines that are half-written and left out.

    Returns: the document of results.json.

    Raises:
        InputError: the folder holds no such evaluation, or a line of it is damaged,
            stands twice, or is of another evaluation; or the results cannot be written.
        SettingError: there are verdicts of several judges, and none is chosen.
    """
    run = read_run(folder)
    names = list(run["tasks"] if asked is None else asked)
    tasks = {name: TASKS[name] for name in names}
    replies = _load_all(folder, run, tasks, tell)
    ids = asked if asked is not None else {name: _list_ids(replies[name]) for name in names}
    verdicts = _read_verdicts(folder, tell)
    judge = judge or find_only_judge(verdicts, OWN)

    def read_verdict(task: Task, reply: Reply) -> str | None:
        return None if judge is None else verdicts.read(judge, task, reply)

    rows = compute_task_results(
        list(tasks.values()),
        list(run["methods"] if keys is None else keys),
        replies,
        asked=ids,
        verdict=read_verdict,
        seed=run["seed"],
    )
    sizes = {name: (len(ids[name]), run["tasks"][name]["questions"]) for name in names}
    add_published(rows, tasks, run["model"], sizes, run["methods"])
    document = {
        KIND: TASKS_KIND,
        **(_read_heading(folder) if heading is None else heading),
        **{name: run[name] for name in ("sparsight", "model", "dtype", "seed", "max_new_tokens")},
        "resamples": RESAMPLES,
        "judge": _describe_judge(judge, verdicts, tasks),
        "tasks": {name: _describe_task(task, *sizes[name]) for name, task in tasks.items()},
        "sources": read_published()["sources"],
        "configurations": rows,
    }
    _write_results(folder, document)
    return document


def _write_results(folder: Path, document: dict[str, Any]) -> None:
    try:
        write_whole(folder / RESULTS, document)
    except OSError as error:
        raise InputError(
            f"{folder / RESULTS} cannot be written ({error.strerror or error}); all answers are "
            f"kept. Mend that, or copy the folder, and run: sparsight eval --score {folder}"
        ) from error


def _load_all(
    folder: Path, run: Mapping[str, Any], tasks: Mapping[str, Task], tell: Tell
) -> dict[str, Replies]:
    """Return the answers of a folder, by benchmark."""
    own = hash_run(run)
    replies = {}
    for name, task in tasks.items():
        replies[name], notes = load_answers(folder, task, own, run["methods"], repair=False)
        for note in notes:
            tell(note)
    return replies


def _read_verdicts(folder: Path, tell: Tell) -> Verdicts:
    verdicts = Verdicts(folder / VERDICTS, repair=False)
    if verdicts.note is not None:
        tell(verdicts.note)
    return verdicts


def _list_ids(replies: Replies) -> list[str]:
    return sorted({reply.id for reply in replies.values()})


def _read_heading(folder: Path) -> dict[str, Any]:
    """Return what the earlier results say of the run that asked, null where nothing is known."""
    try:
        earlier = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        return {name: earlier[name] for name in HEADING}
    except (OSError, ValueError, KeyError, TypeError):
        return dict.fromkeys(HEADING)


def _describe_judge(
    judge: Judge | None, verdicts: Verdicts, tasks: Mapping[str, Task]
) -> dict[str, Any] | None:
    if judge is None:
        return None
    wordings = {task.wording for task in tasks.values() if task.judged}
    return {
        "asked": judge.model,
        "named": verdicts.names(),
        "wordings": {name: judge.wordings[name].digest for name in sorted(wordings)},
        "own_wordings": all(judge.wordings[name] == OWN[name] for name in wordings),
    }


def _describe_task(task: Task, asked: int, questions: int) -> dict[str, Any]:
    return {
        "title": task.title,
        "metric": task.metric,
        "unit": task.unit,
        "asked": asked,
        "questions": questions,
        "note": read_published()["notes"].get(task.name),
    }
