"""Writes the tables of the README and of the pages on scenes, from the files in benchmarks/results and from suites.

python benchmarks/table.py           write them
python benchmarks/table.py --check   exit with 1 if they differ from what the files say
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from random_proof import proof_table
from scenes_table import label, table

from sparsight.evaluate.scenes import SUITES, load_suite
from sparsight.evaluate.scoring import Marks, interval
from sparsight.models.embedded.adapter import read_manifest

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SCENES = "scenes-embedded-cpu.json"
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


def compared() -> str:
    """Return the overall score of every method at every budget, on scenes."""
    found = read(SCENES)
    dense = next(row for row in found["configurations"] if row["budget"] is None)
    named: dict[str, dict[float, Mapping[str, Any]]] = {}
    for row in found["configurations"]:
        if row["budget"] is not None:
            named.setdefault(label(row), {})[row["budget"]] = row
    budgets = sorted({budget for rows in named.values() for budget in rows}, reverse=True)
    lines = [
        f"| `retain` | {' | '.join(f'{budget:g}' for budget in budgets)} |",
        "| --- |" + " ---: |" * len(budgets),
    ]
    for name, rows in named.items():
        lines.append(f"| {name} | {' | '.join(_overall(rows.get(budget)) for budget in budgets)} |")
    lines += [
        "",
        f"Mean score of nine families of questions, and its share of the dense model's "
        f"{100 * dense['overall']['score']:.1f}; {found['suite']['questions']} questions, {found['facts']['dtype']}. "
        "Families, intervals, costs and evidence: docs/scenes-1.md.",
    ]
    return "\n".join(lines)


def _overall(row: Mapping[str, Any] | None) -> str:
    if row is None or row["overall"] is None:
        return "-"
    return f"{100 * row['overall']['score']:.1f} ({100 * row['overall']['retention']:.0f} %)"


def controls() -> str:
    """Return the dense model's scores beside those without an image and with another one."""
    files = {
        "as asked": SCENES,
        "question only": "scenes-blind-embedded-cpu.json",
        "another image": "scenes-swapped-embedded-cpu.json",
    }
    rows = {name: read(file)["configurations"][0] for name, file in files.items()}
    families = list(rows["as asked"]["families"])
    lines = [f"| dense | {' | '.join(families)} |", "| --- |" + " ---: |" * len(families)]
    for name, row in rows.items():
        scores = (row["families"].get(family) for family in families)
        cells = ("-" if score is None else f"{100 * score['score']:.1f}" for score in scores)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def splits() -> str:
    """Return the dense model's accuracy in every part of every family."""
    dense = read(SCENES)["configurations"][0]
    lines = [
        "| family | part | questions | right | share of yes |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for family, scores in dense["families"].items():
        for part, marks in scores["splits"].items():
            yes = f"{100 * marks['yes_share']:.0f} %" if "yes_share" in marks else ""
            lines.append(
                f"| {family} | {part} | {marks['n']} | {100 * marks['accuracy']:.1f} % | {yes} |"
            )
    return "\n".join(lines)


def turns() -> str:
    """Return how often the second of two questions is answered rightly, asked first or later."""
    found = read("two-turns-embedded-cpu.json")
    lines = [
        '| `retain` | asked first | later, `reuse="image"` | difference | later, `reuse="cache"` | difference |',
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in found["rows"]:
        first, *later = (row[way] for way in ("first", "image", "cache"))
        cells = [
            _right(first),
            *(cell for way in later for cell in (_right(way), _less(way, first))),
        ]
        lines.append(f"| {row['retain']} | {' | '.join(cells)} |")
    known, asked = found["facts"], len(found["rows"][0]["first"]["right"])
    lines += [
        "",
        f"Right answers in % of {asked}; in brackets the median time of that turn, and how much of the second answer's "
        "evidence is left behind the last site, in %; difference in points with a paired bootstrap of 95 %. "
        f"{known['dtype']}, {known['cpu']}, {known['threads']} threads.",
    ]
    return "\n".join(lines)


def _right(way: Mapping[str, Any]) -> str:
    right, left = 100 * sum(way["right"]) / len(way["right"]), 100 * way["evidence_mean"]
    return f"{right:.1f} ({1000 * way['seconds_median']:.0f} ms, {left:.0f})"


def _less(way: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    nobody = np.zeros(len(way["right"]), dtype=np.bool_)
    marks, other = (
        Marks(np.array(of["right"]), said=nobody, truth=nobody, binary=False) for of in (way, first)
    )
    low, high = interval([(marks, other)])
    return f"{100 * (marks.score - other.score):+.1f} ({low:+.1f} to {high:+.1f})"


def attention() -> str:
    """Return how well each layer's attention tells evidence from the rest."""
    found = read("attention-embedded-cpu.json")
    rows = {row["layer"]: row for row in found["rows"]}
    shown = [layer for layer in (0, 1, 2, 4, 6, 8, 10, 12, 14, 17, 20, 23, 26, 29) if layer in rows]
    lines = [f"| layer | {' | '.join(map(str, shown))} |", "| --- |" + " ---: |" * len(shown)]
    for title, name in (("mean of heads", "mean_of_heads"), ("best head", "best_head")):
        lines.append(f"| {title} | {' | '.join(f'{rows[layer][name]:.2f}' for layer in shown)} |")
    return "\n".join([*lines, "", f"Mean of {found['questions']} questions; 0.5 is chance."])


def _percent(row: Mapping[str, Any]) -> str:
    return f"{100 * row['open']:.1f} %"


def _ms(way: Mapping[str, Any]) -> str:
    return f"{way['prefill_ms']['median']:.0f} ms"


def _mb(way: Mapping[str, Any]) -> str:
    return f"{way['kv_cache_bytes'] / 1e6:.1f} MB"


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"first": first_table, "compared": compared},
    "docs/scenes.md": {"proof": lambda: proof_table(load_suite(SUITES["scenes-2"]))},
    "docs/scenes-1.md": {
        "dense": splits,
        "controls": controls,
        "all": lambda: table(read(SCENES)),
        "sites": lambda: table(read("scenes-sites-embedded-cpu.json")),
        "turns": turns,
        "attention": attention,
    },
}


def filled(text: str, name: str, made: str) -> str:
    """Return a page with one table replaced.

    Raises: ValueError: the page has no place for it.
    """
    start = START.format(name)
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError(f"no place for table {name!r}: {start} ... {END}")
    return f"{before}{start}\n{made}\n{END}{after}"


def main() -> int:
    """Write or check the tables; return the exit code."""
    differ = []
    for page, tables in PAGES.items():
        path = ROOT / page
        old = new = path.read_text(encoding="utf-8")
        for name, make in tables.items():
            new = filled(new, name, make())
        if old != new:
            differ.append(page)
            if "--check" not in sys.argv[1:]:
                path.write_text(new, encoding="utf-8")
    if "--check" not in sys.argv[1:] or not differ:
        return 0
    print(f"tables of {', '.join(differ)} differ from benchmarks/results; run: make table")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
