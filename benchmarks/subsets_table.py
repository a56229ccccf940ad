"""Writes what it changes that half of a model's training showed random visual tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

from budgets_table import describe_run

ARMS = ("whole", "half")
HEADS = ("method", "tokens", "whole images alone", "over uniform", "half subsets", "over uniform")


def write_subsets(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table: a row for each method and budget, two columns for each training.

    Args: results: of one evaluation by the model of each training, by ARMS.
    """
    arms = [_index_rows(results[arm]) for arm in ARMS]
    if list(arms[0]) != list(arms[1]):
        raise ValueError("the two trainings were asked with other methods or budgets.")
    lines = [_join(HEADS), _join(["---", *["---:"] * (len(HEADS) - 1)])]
    for key, row in arms[0].items():
        cells = [f"`{row['name']}`", str(row["budget"] or "all")]
        for arm in arms:
            cells += [f"{100 * arm[key]['overall']['score']:.1f}", _compare(arm[key])]
        lines.append(_join(cells))
    return "\n".join([*lines, "", describe_run(results[ARMS[0]])])


def _index_rows(results: Mapping[str, Any]) -> dict[str, Any]:
    return {row["key"]: row for row in results["configurations"]}


def _compare(row: Mapping[str, Any]) -> str:
    """Return the paired difference to the even grid, with its interval."""
    other = row["over_uniform"]
    if other is None:
        return ""
    low, high = other["interval_points"]
    return f"{other['difference_points']:+.1f} ({low:+.1f} to {high:+.1f})"


def _join(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
