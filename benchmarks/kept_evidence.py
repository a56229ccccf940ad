"""Counts, by how much of the evidence was left, what pruning changes of the dense model's answers.

python benchmarks/kept_evidence.py out --keys sparsight@64 scope@64 --out evidence.json

`out` is a folder of `sparsight eval`. Only questions count that the dense model answers rightly.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparsight.evaluate.record import Record
from sparsight.evaluate.store import read_records

DENSE = "dense"
PARTS = ("nothing to find", "none", "less than half", "half or more", "all")


def main() -> None:
    """Count, and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--keys", nargs="+", required=True, help="configurations, as sparsight@64")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    results = json.loads((given.folder / "results.json").read_text(encoding="utf-8"))
    records = group_records(read_records(given.folder))
    rows = {key: count_parts(records[DENSE], records[key]) for key in given.keys}
    document = {name: results[name] for name in ("suite", "facts")} | {"rows": rows}
    given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def group_records(records: Sequence[Record]) -> dict[str, dict[str, Record]]:
    """Return the answers of every configuration, by question."""
    grouped: dict[str, dict[str, Record]] = {}
    for record in records:
        grouped.setdefault(record.configuration, {})[record.question] = record
    return grouped


def count_parts(
    dense: Mapping[str, Record], pruned: Mapping[str, Record]
) -> dict[str, dict[str, int]]:
    """Return how many questions each part has, and how many of them are still answered rightly."""
    parts = {part: {"questions": 0, "right": 0} for part in PARTS}
    for question, record in pruned.items():
        if all(dense[question].right):
            part = parts[find_part(record)]
            part["questions"] += 1
            part["right"] += all(record.right)
    return parts


def find_part(record: Record) -> str:
    """Return how much of the evidence the decoder was given; of several turns the least."""
    left = [sites[0] for sites in record.recall if sites is not None]
    if not left:
        return PARTS[0]
    least = min(left)
    return PARTS[1 + sum((least > 0, least >= 0.5, least >= 1))]


def write_kept(document: Mapping[str, dict[str, dict[str, dict[str, int]]]]) -> str:
    """Return the table of some rows."""
    lines = [_join(["", *PARTS]), _join(["---", *["---:"] * len(PARTS)])]
    for key, parts in document["rows"].items():
        cells = [_write_cell(parts[part]["right"], parts[part]["questions"]) for part in PARTS]
        lines.append(_join([f"`{key}`", *cells]))
    return "\n".join(lines)


def _write_cell(right: int, questions: int) -> str:
    return f"{100 * right / questions:.0f} % of {questions}" if questions else ""


def _join(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
