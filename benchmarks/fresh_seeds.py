"""Compares two configurations on suites of fresh seeds, question by question.

python benchmarks/fresh_seeds.py out-31 out-32 --keys sparsight:level=adaptive@64 sparsight@66 \
  --out fresh.json

Each folder is of `sparsight eval`, on a suite that `compose_suite` made or on a part of a suite.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any, Literal, get_args

from kept_evidence import group_records

from sparsight.evaluate.record import Record
from sparsight.evaluate.store import read_records

ALL = "all"
By = Literal["split", "family"]


def main() -> None:
    """Compare, and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--keys", nargs=2, required=True, help="configurations")
    parser.add_argument("--by", choices=get_args(By), default="split", help="what a row is of")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    pairs: list[tuple[Record, Record]] = []
    for folder in given.folders:
        one, other = (group_records(read_records(folder))[key] for key in given.keys)
        pairs += [
            (one[question], other[question]) for question in sorted(one.keys() & other.keys())
        ]
    results = json.loads((given.folders[0] / "results.json").read_text(encoding="utf-8"))
    document = {
        "keys": given.keys,
        "suites": len(given.folders),
        "facts": results["facts"],
        "parts": compare_parts(pairs, given.by),
    }
    given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def compare_parts(
    pairs: Sequence[tuple[Record, Record]], by: By = "split"
) -> dict[str, dict[str, Any]]:
    """Return, for each part and for all, how many questions each of two configurations answers."""
    parts: dict[str, list[tuple[Record, Record]]] = {}
    for pair in sorted(pairs, key=lambda pair: getattr(pair[0], by)):
        parts.setdefault(getattr(pair[0], by), []).append(pair)
    return {part: compare(own) for part, own in parts.items()} | {ALL: compare(pairs)}


def compare(pairs: Sequence[tuple[Record, Record]]) -> dict[str, Any]:
    """Return right answers of both, and the paired difference with its 95 % interval, in points.

    The interval is the normal one of questions that only one of the two answers.
    """
    columns = list(zip(*pairs, strict=True))
    gained = sum(answers(one) > answers(other) for one, other in pairs)
    lost = sum(answers(one) < answers(other) for one, other in pairs)
    count, difference = len(pairs), gained - lost
    reach = 1.96 * sqrt(gained + lost - difference**2 / count)
    return {
        "questions": count,
        "right": [sum(map(answers, column)) for column in columns],
        "gained": gained,
        "lost": lost,
        "difference_points": 100 * difference / count,
        "interval_points": [100 * (difference + sign * reach) / count for sign in (-1, 1)],
        "tokens": [sum(map(count_tokens, column)) / count for column in columns],
    }


def answers(record: Record) -> bool:
    """Return whether every turn is answered rightly."""
    return all(record.right)


def count_tokens(record: Record) -> float:
    """Return the mean of visual tokens that entered a layer."""
    return record.mean_visual_tokens


def write_fresh(document: Mapping[str, Any], rows: str = "part") -> str:
    """Return the table of one result; `rows` is what a row is of."""
    heads = [rows, "questions", *(f"`{key}`" for key in document["keys"])]
    heads += ["gained", "lost", "difference, 95 %", "tokens"]
    lines = [_join(heads), _join(["---", *["---:"] * (len(heads) - 1)])]
    for part, row in document["parts"].items():
        low, high = row["interval_points"]
        right = [f"{100 * number / row['questions']:.1f} %" for number in row["right"]]
        difference = f"{row['difference_points']:+.1f} ({low:+.1f} to {high:+.1f})"
        cells = [part, str(row["questions"]), *right, str(row["gained"]), str(row["lost"])]
        lines.append(_join([*cells, difference, " / ".join(f"{n:.0f}" for n in row["tokens"])]))
    return "\n".join(lines)


def _join(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
