"""Writes the tables of the README from the files in benchmarks/results.

python benchmarks/table.py           write them
python benchmarks/table.py --check   exit with 1 if they differ from what the files say
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsight.embedded.adapter import read_manifest

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "README.md"
START, END = "<!-- table: {} -->", "<!-- end of table -->"


def read(name: str) -> Mapping[str, Any]:
    """Return one result file."""
    found: Mapping[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return found


def first_table() -> str:
    """Return the table of the first screen: what the embedded model keeps and saves at each budget."""
    prefill, accuracy = read("prefill-embedded-cpu.json"), read("accuracy-embedded-cpu.json")
    answers = {row["retain"]: row for row in accuracy["rows"]}
    known = prefill["facts"]
    dense = prefill["budgets"][0]["dense"]
    rows = [
        "| `retain` | open questions right | prefill | faster, of which possible | FLOPs less | KV cache |",
        "| --- | --- | --- | --- | --- | --- |",
        f"| dense, {prefill['visual_tokens']} | {_percent(answers['dense'])} | {_ms(dense)} | | | {_mb(dense)} |",
    ]
    for budget in prefill["budgets"]:
        ratios, sparse = budget["ratios"], budget["sparse"]
        possible = ratios["prefill_dense_over_sparse"] * ratios["prefill_sparse_over_oracle"]
        rows.append(
            f"| {budget['retain']} | {_percent(answers[str(budget['retain'])])} | {_ms(sparse)} "
            f"| {ratios['prefill_dense_over_sparse']:.2f} x of {possible:.2f} x "
            f"| {ratios['flops_dense_over_sparse']:.2f} x | {_mb(sparse)} |"
        )
    total, guess = answers["dense"]["n_open"], read_manifest().accuracy["open_swapped"]
    rows += [
        "",
        f"The embedded model (157 M parameters, {prefill['sizes']['layers']} decoder layers) on {total} open test "
        f"questions of easy-VQA (with images swapped: {100 * guess:.1f} %); text decoder's prefill of "
        f"{prefill['visual_tokens']} visual and {prefill['text_tokens']} text tokens, "
        f"median of {prefill['rounds']} interleaved runs, {known['dtype']}, "
        f"{known['cpu']}, {known['threads']} threads, torch {known['torch']}, transformers {known['transformers']}. "
        '"Possible" is an oracle that runs the same layers on sequences cut beforehand.',
    ]
    return "\n".join(rows)


def _percent(row: Mapping[str, Any]) -> str:
    return f"{100 * row['open']:.1f} %"


def _ms(way: Mapping[str, Any]) -> str:
    return f"{way['prefill_ms']['median']:.0f} ms"


def _mb(way: Mapping[str, Any]) -> str:
    return f"{way['kv_cache_bytes'] / 1e6:.1f} MB"


def filled(text: str, name: str, table: str) -> str:
    """Return a page with one table replaced.

    Raises: ValueError: the page has no place for it.
    """
    start = START.format(name)
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError(f"{PAGE.name} has no place for table {name!r}: {start} ... {END}")
    return f"{before}{start}\n{table}\n{END}{after}"


def main() -> int:
    """Write or check the tables; return the exit code."""
    old = PAGE.read_text(encoding="utf-8")
    new = filled(old, "first", first_table())
    if "--check" in sys.argv[1:]:
        if old != new:
            print("README.md's tables differ from benchmarks/results; run: make table")
        return int(old != new)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
