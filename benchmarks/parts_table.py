"""Writes how much of every part of a suite is answered rightly, whole and with fewer tokens."""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

from sparsight.evaluate.scenes import Question

BUDGET = 64
SECOND = "second"  # of two turns
SHOWN = ("downscale", "uniform", "sparsight")  # columns beside the whole image


def write_parts(results: Mapping[str, Any], suite: Sequence[Question]) -> str:
    """Return the table: a row for each part, and one for all.

    Args:
        results: of an evaluation of the whole suite, dense and of the methods that are shown.
        suite: its questions, which say what is hard for downscaling.
    """
    rows = {row["key"]: row for row in results["configurations"]}
    keys = ["dense", *(f"{name}@{BUDGET}" for name in SHOWN)]
    heads = ["family", "part", "questions", "whole image", "95 %", f"shrunk to {BUDGET}"]
    heads += [*(f"{name}, {BUDGET}" for name in SHOWN[1:]), "hard for downscaling"]
    lines = [_join(heads), _join(["---", "---", *["---:"] * (len(heads) - 2)])]
    for family, scores in rows["dense"]["families"].items():
        for part in _list_parts(scores):
            asked = [q for q in suite if q.family == family and part in (q.split, SECOND)]
            marks = [rows[key]["families"][family]["splits"][part] for key in keys]
            lines.append(_join([family, part, *_list_cells(marks, asked)]))
    every = [_sum_up(rows[key]) for key in keys]
    lines.append(_join(["all", "", *_list_cells(every, suite)]))
    lines.append(_join(["score", "", "", *_list_scores([rows[key] for key in keys])]))
    return "\n".join([*lines, "", _describe(results)])


def measure_interval(right: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share.

    Args:
        right: share in 0..1 of `count` questions.
        count: at least 1.
    Returns: its bounds in 0..1.
    """
    z = 1.96
    middle = right + z * z / (2 * count)
    reach = z * sqrt(right * (1 - right) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return (middle - reach) / scale, (middle + reach) / scale


def _list_parts(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a family; of two turns the second, which is the score."""
    parts: dict[str, Any] = scores["splits"]
    return {SECOND: parts[SECOND]} if SECOND in parts else parts


def _sum_up(row: Mapping[str, Any]) -> dict[str, float]:
    families = row["families"].values()
    parts = [part for scores in families for part in _list_parts(scores).values()]
    count = sum(part["n"] for part in parts)
    return {"n": count, "accuracy": sum(part["n"] * part["accuracy"] for part in parts) / count}


def _list_cells(marks: Sequence[Mapping[str, Any]], asked: Sequence[Question]) -> list[str]:
    count = marks[0]["n"]
    if count != len(asked) or any(mark["n"] != count for mark in marks):
        raise ValueError("the results are not of the whole suite; run it without --limit.")
    low, high = measure_interval(marks[0]["accuracy"], count)
    hard = sum(BUDGET in (question.hard_for_downscaling or ()) for question in asked)
    whole, *fewer = (f"{100 * mark['accuracy']:.0f} %" for mark in marks)
    return [str(count), whole, f"{100 * low:.0f} to {100 * high:.0f}", *fewer, str(hard)]


def _list_scores(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    whole, *fewer = (f"{100 * row['overall']['score']:.1f} %" for row in rows)
    return [whole, "", *fewer, ""]


def _describe(results: Mapping[str, Any]) -> str:
    facts = results["facts"]
    return (
        "Share of questions that are answered rightly, of two turns the second, with Wilson's "
        f"interval: on the whole image, on one shrunk to at most {BUDGET} visual tokens, and with "
        f"{BUDGET} of the image's tokens kept. Hard for downscaling: right on the whole image and "
        "wrong on the shrunk one, in questions. Score: mean of the nine families, with F1 of yes "
        f"for existence. {results['model'].capitalize()} model in {facts['dtype']}, "
        f"{facts['cpu']}, torch {facts['torch']}, transformers {facts['transformers']}."
    )


def _join(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
