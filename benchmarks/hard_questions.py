"""Finds the questions that need the pixels: right for the dense model, wrong on a smaller image.

`python benchmarks/scenes_table.py FOLDER --mark SUITE` writes them into a suite.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from sparsight.errors import InputError
from sparsight.evaluate import DENSE, Record, read_records
from sparsight.evaluate.folder import RUN
from sparsight.evaluate.scenes import load_suite
from sparsight.evaluate.scenes.suite import write_questions
from sparsight.evaluate.store import hash_suite

DOWNSCALE = "downscale"


def find_hard(rows: Iterable[Record]) -> dict[str, tuple[int, ...]]:
    """Return the budgets at which a question is hard for downscaling.

    Hard: the dense model answers rightly on the whole image, and wrongly on an image that was
    scaled down to as many tokens.

    Args:
        rows: of one evaluation without control.

    Returns:
        Ascending budgets by question id, empty where the question is hard at none. Questions
        without a dense answer, or without any answer on a smaller image, are left out.
    """
    dense: dict[str, bool] = {}
    smaller: dict[str, dict[int, bool]] = {}
    for row in rows:
        name, _, budget = row.configuration.partition("@")
        if name == DENSE.key:
            dense[row.question] = row.right[-1]
        elif name == DOWNSCALE and budget.isdigit():
            smaller.setdefault(row.question, {})[int(budget)] = row.right[-1]
    hard = {}
    for question, marks in smaller.items():
        if question in dense:
            wrong = sorted(budget for budget, right in marks.items() if not right)
            hard[question] = tuple(wrong) if dense[question] else ()
    return hard


def mark_hard(folder: Path, hard: Mapping[str, tuple[int, ...]]) -> int:
    """Write into a suite which of its questions are hard for downscaling.

    Args:
        folder: of the suite; its list of questions is rewritten.
        hard: as returned by `find_hard`.

    Returns:
        The number of questions that were marked, hard or not.

    Raises:
        InputError: the folder holds no suite, or a question is not in it.
    """
    suite = load_suite(folder)
    unknown = sorted(set(hard) - {question.id for question in suite})
    if unknown:
        raise InputError(
            f"question {unknown[0]!r} is not in {folder}; mark the suite that was evaluated."
        )
    marked = []
    for question in suite:
        budgets = hard.get(question.id, question.hard_for_downscaling)
        marked.append(replace(question, hard_for_downscaling=budgets))
    write_questions(marked, folder)
    return len(hard)


def mark_evaluated(folder: Path, suite: Path) -> int:
    """Mark a suite by the answers of an evaluation, and return the number of marked questions.

    Args:
        folder: of the evaluation.
        suite: folder of the suite that was evaluated.

    Raises:
        InputError: the evaluation had a control, holds no answers, or is not of this suite.
    """
    path = folder / RUN
    if not path.is_file():
        raise InputError(f"{folder} holds no {RUN}; give the --out of an evaluation.")
    description = json.loads(path.read_text(encoding="utf-8"))
    if description["control"] != "none":
        raise InputError(
            f"{folder} was evaluated with control {description['control']}; "
            "mark by an evaluation without one."
        )
    if description["suite"] != hash_suite(load_suite(suite), suite):
        raise InputError(
            f"{folder} is no evaluation of {suite}; mark the suite that was evaluated."
        )
    return mark_hard(suite, find_hard(read_records(folder)))
