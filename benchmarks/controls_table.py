"""Writes the dense model's scores beside its controls: no image, another image, a single answer."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sparsight.evaluate.scenes import Question
from sparsight.evaluate.scoring import YES_NO, normalise

WAYS = ("as asked", "question only", "another image")


def write_controls(
    files: Sequence[Mapping[str, Any]], questions: Sequence[Question] | None = None
) -> str:
    """Return the dense model's scores by family, a row for each way to ask.

    Args:
        files: results of the dense model: as asked, without an image, with another one.
        questions: that were asked, for a row of what a single answer scores; None for no such row.

    Raises:
        ValueError: a file has results of other questions.
    """
    scores: dict[str, dict[str, float]] = {}
    for way, results in zip(WAYS, files, strict=True):
        if questions is not None and results["suite"]["questions"] != len(questions):
            raise ValueError(f"{way}: not the {len(questions)} questions that are to be compared")
        parts = results["configurations"][0]["families"]
        scores[way] = {family: part["score"] for family, part in parts.items()}
    if questions is not None:
        scores["the most frequent answer"] = score_single_answers(questions)
    families = list(scores[WAYS[0]])
    lines = [f"| dense | {' | '.join(families)} |", "| --- |" + " ---: |" * len(families)]
    for way, own in scores.items():
        cells = ("-" if family not in own else f"{100 * own[family]:.1f}" for family in families)
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def score_single_answers(questions: Sequence[Question]) -> dict[str, float]:
    """Return what the single answer that is right most often scores in each family.

    It is F1 of saying yes always where the score is F1. Of two questions the last one counts.
    """
    answers: dict[str, Counter[str]] = {}
    for question in questions:
        own = answers.setdefault(question.family, Counter())
        own[normalise(question.turns[-1].answer)] += 1
    scores = {}
    for family, counts in answers.items():
        if family == YES_NO:
            scores[family] = 2 * counts["yes"] / (counts.total() + counts["yes"])
        else:
            scores[family] = max(counts.values()) / counts.total()
    return scores
