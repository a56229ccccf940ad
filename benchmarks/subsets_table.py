"""Writes what it changes that half of a model's training showed random visual tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

from budgets_table import describe_run

ARMS = {"whole": "whole images alone", "half": "half subsets", "shipped": "shipped adapter"}


def write_subsets(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table: a row for each method and budget, a column for each training.

    A column holds scores, and in brackets how far they are from the even grid's.

    Args: results: of one evaluation by the model of each training, by ARMS.
    """
    arms = [_index_rows(results[arm]) for arm in ARMS]
    if any(list(arm) != list(arms[0]) for arm in arms):
        raise ValueError("the trainings were asked with other methods or budgets.")
    heads = ["method", "tokens", *ARMS.values()]
    lines = [_join(heads), _join(["---", *["---:"] * (len(heads) - 1)])]
    for key, row in arms[0].items():
        name = f"`{row['name']}`" if row["budget"] else row["name"]
        cells = [_compare(arm[key]) for arm in arms]
        lines.append(_join([name, str(row["budget"] or "all"), *cells]))
    note = f"{arms[0]['dense']['n']} questions, mean of two families. "
    return "\n".join([*lines, "", note + describe_run(results["whole"])])


def _index_rows(results: Mapping[str, Any]) -> dict[str, Any]:
    return {row["key"]: row for row in results["configurations"]}


def _compare(row: Mapping[str, Any]) -> str:
    """Return a score, and its paired difference to the even grid's with the interval."""
    score, other = f"{100 * row['overall']['score']:.1f}", row["over_uniform"]
    if other is None:
        return score
    low, high = other["interval_points"]
    return f"{score} ({other['difference_points']:+.1f}; {low:+.1f} to {high:+.1f})"


def _join(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
