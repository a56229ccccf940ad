"""Writes one Markdown table of all methods of an evaluation, a column for each budget.

python benchmarks/budgets_table.py FOLDER      print the table of FOLDER/results.json
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scenes_table import label

from sparsight.evaluate.folder import RESULTS

MIDDLE = 64  # the budget by which rows are sorted
ABOVE, BELOW = "\N{BLACK UP-POINTING TRIANGLE}", "\N{BLACK DOWN-POINTING TRIANGLE}"

Row = Mapping[str, Any]


def write_budgets(results: Mapping[str, Any], names: Sequence[str] | None = None) -> str:
    """Return the mean score of each method at each budget, best first at the middle one.

    Args:
        results: of an evaluation.
        names: methods that are shown; None for all.
    """
    table = collect(results)
    budgets = sorted({budget for row in table.values() for budget in row}, reverse=True)
    dense = next(row for row in results["configurations"] if row["budget"] is None)
    shown = [name for name in sort_names(table) if names is None or name in names]
    lines = [
        f"| mean score in %; dense: {100 * dense['overall']['score']:.1f} | "
        + " | ".join(f"{budget:g}" for budget in budgets)
        + " |",
        "| --- |" + " ---: |" * len(budgets),
    ]
    for name in shown:
        cells = [_format_score(table[name].get(budget)) for budget in budgets]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", describe(results)])


def write_differences(results: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return the mean score of some configurations, and how far each is from the recommended one.

    Args:
        results: of an evaluation.
        names: configurations by their labels, the recommended one among them, and what they are.
    """
    table = collect(results)
    budgets = sorted({budget for name in names for budget in table[name]}, reverse=True)
    dense = next(row for row in results["configurations"] if row["budget"] is None)
    lines = [
        f"| mean score in %; dense: {100 * dense['overall']['score']:.1f} | "
        + " | ".join(f"{budget:g}" for budget in budgets)
        + " | tokens |",
        "| --- |" + " ---: |" * (len(budgets) + 1),
    ]
    for name, title in names.items():
        row = table[name]
        cells = [_format_difference(row.get(budget)) for budget in budgets]
        tokens = [_count_tokens(row.get(budget)) for budget in budgets]
        lines.append(f"| {title} | {' | '.join(cells)} | {' / '.join(tokens)} |")
    note = (
        f"{results['suite']['questions']} questions, mean of nine families; in brackets the "
        "difference to the first row in points, with its 95 % interval by a paired bootstrap. "
        "Tokens: mean that enter a layer, over all questions. "
    )
    return "\n".join([*lines, "", note + describe_run(results)])


def _format_difference(row: Row | None) -> str:
    """Return a score, and its difference to the recommended method's with the interval."""
    if row is None or row["overall"] is None:
        return "-"
    score, other = f"{100 * row['overall']['score']:.1f}", row["over_recommended"]
    if other is None:
        return score
    low, high = other["interval_points"]
    return f"{score} ({other['difference_points']:+.1f}; {low:+.1f} to {high:+.1f})"


def _count_tokens(row: Row | None) -> str:
    if row is None or row["cost"] is None:
        return "-"
    return f"{row['cost']['mean_visual_tokens']:.0f}"


def collect(results: Mapping[str, Any]) -> dict[str, dict[float, Row]]:
    """Return the rows of each method by its label, and of each of them by its budget."""
    table: dict[str, dict[float, Row]] = {}
    for row in results["configurations"]:
        if row["budget"] is not None:
            table.setdefault(label(row), {})[row["budget"]] = row
    return table


def sort_names(table: Mapping[str, Mapping[float, Row]]) -> list[str]:
    """Return the methods' names by their score at the middle budget; those without one last."""

    def rank(name: str) -> float:
        overall = (table[name].get(MIDDLE) or {}).get("overall")
        return -overall["score"] if overall else 1.0

    return sorted(table, key=rank)


def _format_score(row: Row | None) -> str:
    """Return a score, marked if it is above or below the even grid's by more than chance."""
    if row is None or row["overall"] is None:
        return "-"
    mark, other = "", row["over_uniform"]
    if other is not None:
        low, high = other["interval_points"]
        mark = f" {ABOVE}" if low > 0 else f" {BELOW}" if high < 0 else ""
    partial = "" if not row["refused"] else " (some refused)"
    return f"{100 * row['overall']['score']:.1f}{mark}{partial}"


def describe(results: Mapping[str, Any]) -> str:
    """Return what the numbers are, and what they were measured with."""
    return (
        f"Mean of nine families, {results['suite']['questions']} questions, visual tokens entering "
        f"a layer as columns. {ABOVE} {BELOW}: above or below `uniform` at that budget, 95 % "
        f"interval of a paired bootstrap. {describe_run(results)}"
    )


def describe_run(results: Mapping[str, Any]) -> str:
    """Return what an evaluation was run with."""
    facts = results["facts"]
    return (
        f"{results['model']} model in {facts['dtype']}, {facts['gpu'] or facts['cpu']}, torch "
        f"{facts['torch']}, transformers {facts['transformers']}, sparsight {facts['sparsight']}."
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="the --out of an evaluation")
    folder = parser.parse_args().folder
    print(write_budgets(json.loads((folder / RESULTS).read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
