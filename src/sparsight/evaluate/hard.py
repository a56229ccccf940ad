"""Which questions need the pixels: those that the dense model gets right and a scaled-down image gets wrong."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from sparsight.errors import InputError
from sparsight.evaluate.record import Record
from sparsight.evaluate.scenes.suite import load_suite, write_questions
from sparsight.evaluate.settings import DENSE

DOWNSCALE = "downscale"


def hard_for_downscaling(rows: Iterable[Record]) -> dict[str, tuple[int, ...]]:
    """Find the budgets at which a question is answered rightly by the dense model and wrongly on a scaled-down image.

    Args: rows: of one evaluation without control.
    Returns: by question id, ascending budgets; empty where none is hard. Questions without a dense
    answer or any on
        a scaled-down image are left out.
    """
    dense: dict[str, bool] = {}
    scaled: dict[str, dict[int, bool]] = {}
    for row in rows:
        name, _, budget = row.configuration.partition("@")
        if name == DENSE.key:
            dense[row.question] = row.right[-1]
        elif name == DOWNSCALE and budget.isdigit():
            scaled.setdefault(row.question, {})[int(budget)] = row.right[-1]
    return {
        question: tuple(
            sorted(budget for budget, right in marks.items() if dense[question] and not right)
        )
        for question, marks in scaled.items()
        if question in dense
    }


def mark_hard(folder: Path, hard: Mapping[str, tuple[int, ...]]) -> int:
    """Write into a suite which of its questions are hard for downscaling.

    Args:
        folder: of the suite; its list of questions is rewritten.
        hard: as returned by `hard_for_downscaling`.
    Returns: questions that were marked, hard or not.
    Raises: InputError: the folder holds no suite, or a question is not in it.
    """
    suite = load_suite(folder)
    unknown = sorted(set(hard) - {question.id for question in suite})
    if unknown:
        raise InputError(
            f"question {unknown[0]!r} is not in {folder}; mark the suite that was evaluated."
        )
    write_questions(
        [
            replace(
                question, hard_for_downscaling=hard.get(question.id, question.hard_for_downscaling)
            )
            for question in suite
        ],
        folder,
    )
    return len(hard)
