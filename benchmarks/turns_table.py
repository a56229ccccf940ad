"""Writes the table of second questions, of results of `two_turns.py`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sparsight.evaluate.scoring import Marks, bootstrap_interval


def write_turns(results: Mapping[str, Any]) -> str:
    """Return how often the second of two questions is answered rightly, asked first or later."""
    lines = [
        '| `retain` | asked first | later, `reuse="image"` | difference | later, `reuse="cache"` '
        "| difference |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in results["rows"]:
        cells = [_format_right(row["first"])]
        for order in ("image", "cache"):
            cells += [_format_right(row[order]), _format_difference(row[order], row["first"])]
        lines.append(f"| {row['retain']} | {' | '.join(cells)} |")
    facts = results["facts"]
    lines += [
        "",
        f"Right answers in % of {len(results['rows'][0]['first']['right'])}; in brackets the "
        "median time of that turn, and how much of the second answer's evidence is left behind "
        "the last site, in %; difference in points with a paired bootstrap of 95 %. "
        f"{facts['dtype']}, {facts['cpu']}, {facts['threads']} threads.",
    ]
    return "\n".join(lines)


def _format_right(answers: Mapping[str, Any]) -> str:
    right = 100 * sum(answers["right"]) / len(answers["right"])
    left = 100 * answers["evidence_mean"]
    return f"{right:.1f} ({1000 * answers['seconds_median']:.0f} ms, {left:.0f})"


def _format_difference(answers: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    marks = _build_marks(answers)
    first_marks = _build_marks(first)
    low, high = bootstrap_interval([(marks, first_marks)])
    return f"{100 * (marks.score - first_marks.score):+.1f} ({low:+.1f} to {high:+.1f})"


def _build_marks(answers: Mapping[str, Any]) -> Marks:
    none = np.zeros(len(answers["right"]), dtype=np.bool_)
    return Marks(np.array(answers["right"]), said=none, truth=none, binary=False)
