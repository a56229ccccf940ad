"""Scores by kind of question: MM-Vet's capabilities, SEED-Bench's types. Pure functions.

A question may be of several kinds at once. It then counts in each of them, and in the score of just
these kinds together, which MM-Vet calls an integration of capabilities.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparsight.evaluate.tasks.lines import Reply
from sparsight.evaluate.tasks.task import Sums, Task

Marks = Sequence[tuple[Reply, Any]]  # answers with their marks, which are None where not judged
AND = "+"  # between kinds that stand together


def tally_parts(task: Task, marks: Marks) -> dict[str, Sums]:
    """Return the sums (groups, K) of each part, groups in the order of their names."""
    groups: dict[str, dict[str, list[Any]]] = {}
    for reply, mark in marks:
        groups.setdefault(reply.part, {}).setdefault(reply.group, []).append(mark)
    return {part: _tally_groups(task, own) for part, own in sorted(groups.items())}


def _tally_groups(task: Task, groups: Mapping[str, Sequence[Any]]) -> Sums:
    return np.array([task.tally(groups[name]) for name in sorted(groups)], dtype=np.float64)


def score_kinds(task: Task, marks: Marks) -> dict[str, Any]:
    """Return the scores of kinds of questions, and of kinds that stand together.

    Source: Yu et al., "MM-Vet", ICML 2024, arXiv 2308.02490, for its two tables.

    Args:
        task: whose kinds are known.
        marks: of all answers of a configuration.
    Returns: `kinds` and `kinds_together`, each with `score` (None where nothing is judged), `n` and
        `unjudged` by kind; nothing where an answer is of no kind, as in the files of an earlier
        version. `kinds_together` is there if some question is of several kinds.
    """
    if not task.kinds or not all(reply.kinds for reply, _ in marks):
        return {}
    scores: dict[str, Any] = {"kinds": _score_each(task, marks)}
    together = _group_by_kinds(task, marks)
    if any(len(own) > 1 for own in together):
        order = sorted(together, key=_count_and_place(task))
        scores["kinds_together"] = {AND.join(own): _score(task, together[own]) for own in order}
    return scores


def _score_each(task: Task, marks: Marks) -> dict[str, Any]:
    """Return the scores of each kind that some question is of."""
    scores = {}
    for kind in task.kinds:
        own = [pair for pair in marks if kind in pair[0].kinds]
        if own:
            scores[kind] = _score(task, own)
    return scores


def _group_by_kinds(task: Task, marks: Marks) -> dict[tuple[str, ...], list[tuple[Reply, Any]]]:
    """Return the marks of questions of the same kinds, in the order that the task has them."""
    together: dict[tuple[str, ...], list[tuple[Reply, Any]]] = {}
    for reply, mark in marks:
        own = tuple(kind for kind in task.kinds if kind in reply.kinds)
        together.setdefault(own, []).append((reply, mark))
    return together


def _count_and_place(task: Task) -> Any:
    """Return the key that sorts kinds that stand together: few first, then as the task has them."""

    def place(own: tuple[str, ...]) -> tuple[int, list[int]]:
        return len(own), [task.kinds.index(kind) for kind in own]

    return place


def _score(task: Task, marks: Marks) -> dict[str, Any]:
    unjudged = sum(mark is None for _, mark in marks)
    score = None
    if unjudged < len(marks):
        sums = tally_parts(task, marks)
        score = float(task.combine(np.stack([own.sum(axis=0) for own in sums.values()])[None])[0])
    return {"score": score, "n": len(marks), "unjudged": unjudged}
