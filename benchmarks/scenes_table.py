"""Writes a Markdown table of `sparsight eval`, or marks a suite's hard questions.

python benchmarks/scenes_table.py FOLDER                  print the table of FOLDER/results.json
python benchmarks/scenes_table.py FOLDER --mark SUITE     write into SUITE's questions.jsonl which
                                                          questions are hard for downscaling
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hard_questions import mark_evaluated

from sparsight.evaluate.folder import RESULTS
from sparsight.evaluate.scenes import FAMILIES


def write_table(results: Mapping[str, Any]) -> str:
    """Return scores, costs and evidence, a row for each configuration, and how it was measured."""
    rows = results["configurations"]
    answered = set().union(*(row["families"] for row in rows))
    families = [family for family in FAMILIES if family in answered]
    heads = ["configuration", *families, "overall", "retention", "difference, 95 %"]
    heads += ["visual tokens", "FLOPs", "seconds", "evidence left"]
    lines = [_join(heads), _join(["---", *["---:"] * (len(heads) - 1)])]
    lines += [_join(_list_cells(row, families)) for row in rows]
    return "\n".join([*lines, "", describe(results)])


def describe(results: Mapping[str, Any]) -> str:
    """Return what the numbers of a table are, and what they were measured with."""
    facts = results["facts"]
    return (
        f"{results['suite']['questions']} questions, control {results['control']}, "
        f"{results['model']} model in {facts['dtype']}. Scores in %, F1 of yes for existence; "
        "difference to dense in points with a paired bootstrap of "
        f"{results['resamples']} resamples; visual tokens entering a layer, mean, on one image; "
        "FLOPs of the decoder's prefill as a share of dense; median seconds of a whole answer; "
        "share of the evidence's visual tokens that are left behind the last site. "
        f"{facts['gpu'] or facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}, "
        f"transformers {facts['transformers']}, sparsight {facts['sparsight']}."
    )


def label(row: Mapping[str, Any]) -> str:
    """Return a configuration's name; for SparseVLM it says whether positions are renumbered.

    It says so whatever the default was when the configuration ran.
    """
    settings = row["settings"] or ""
    if not settings.startswith("SparseVLM("):
        return str(row["name"])
    parts = [part for part in row["name"].split(":") if not part.startswith("positions=")]
    return ":".join(parts) + (" (renumbered)" if "positions='renumber'" in settings else "")


def _list_cells(row: Mapping[str, Any], families: list[str]) -> list[str]:
    overall = row["overall"] or {}
    cost = row["cost"] or {}
    bounds = overall.get("interval_points")
    difference = "-"
    if bounds and row["settings"]:
        difference = f"{overall['difference_points']:+.1f} ({bounds[0]:+.1f} to {bounds[1]:+.1f})"
    scores = [row["families"].get(family, {}).get("score") for family in families]
    tokens = cost.get("mean_visual_tokens_one_image")
    seconds = cost.get("seconds_median")
    return [
        label(row) if row["budget"] is None else f"{label(row)}@{row['budget']:g}",
        *map(_format_percent, scores),
        _format_percent(overall.get("score")),
        _format_percent(overall.get("retention")),
        difference,
        "-" if tokens is None else f"{tokens:.0f}",
        _format_percent(cost.get("flops_share")),
        "-" if seconds is None else f"{seconds:.2f}",
        _format_percent((row["evidence"] or {}).get("recall")),
    ]


def _format_percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def _join(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table, or mark a suite."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="the --out of an evaluation")
    parser.add_argument(
        "--mark", type=Path, metavar="SUITE", help="folder of the suite that was evaluated"
    )
    args = parser.parse_args()
    if args.mark is not None:
        print(f"{mark_evaluated(args.folder, args.mark)} questions marked in {args.mark}")
        return
    print(write_table(json.loads((args.folder / RESULTS).read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
