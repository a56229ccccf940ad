"""Writes a Markdown table from the results of `sparsight eval`, or marks in a suite what is hard for downscaling.

python benchmarks/scenes_table.py FOLDER                     print the table of FOLDER/results.json
python benchmarks/scenes_table.py FOLDER --mark SUITE        write into SUITE's questions.jsonl
which are hard
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsight.errors import InputError
from sparsight.evaluate import hard_for_downscaling, mark_hard, read_records
from sparsight.evaluate.scenes import FAMILIES, load_suite
from sparsight.evaluate.store import RESULTS, RUN, suite_hash


def table(found: Mapping[str, Any]) -> str:
    """Return scores, costs and evidence of every configuration, one row each, and what they were measured with."""
    rows = found["configurations"]
    families = [family for family in FAMILIES if any(family in row["families"] for row in rows)]
    heads = [
        "configuration",
        *families,
        "overall",
        "retention",
        "difference, 95 %",
        "visual tokens",
        "FLOPs",
    ]
    heads += ["seconds", "evidence left"]
    lines = [_line(heads), _line(["---", *["---:"] * (len(heads) - 1)])]
    lines += [_line(_cells(row, families)) for row in rows]
    return "\n".join([*lines, "", facts_line(found)])


def facts_line(found: Mapping[str, Any]) -> str:
    """Return what the numbers of a table are and what they were measured with."""
    known = found["facts"]
    return (
        f"{found['suite']['questions']} questions, control {found['control']}, {found['model']} model in "
        f"{known['dtype']}. Scores in %, F1 of yes for existence; difference to dense in points with a paired "
        f"bootstrap of {found['resamples']} resamples; visual tokens entering a layer, mean, on one image; FLOPs of "
        "the decoder's prefill as a share of dense; median seconds of a whole answer; share of the evidence's visual "
        f"tokens that are left behind the last site. {known['gpu'] or known['cpu']}, {known['threads']} threads, "
        f"torch {known['torch']}, transformers {known['transformers']}, sparsight {known['sparsight']}."
    )


def label(row: Mapping[str, Any]) -> str:
    """Return a configuration's name; SparseVLM's says whether positions are counted anew, whatever the default was."""
    settings = row["settings"] or ""
    if not settings.startswith("SparseVLM("):
        return str(row["name"])
    others = [word for word in row["name"].split(":") if not word.startswith("positions=")]
    return ":".join(others) + (" (renumbered)" if "positions='renumber'" in settings else "")


def _cells(row: Mapping[str, Any], families: list[str]) -> list[str]:
    overall, cost, evidence = (row[part] or {} for part in ("overall", "cost", "evidence"))
    bounds, tokens, seconds = (
        overall.get("interval_points"),
        cost.get("mean_visual_tokens_one_image"),
        cost.get("seconds_median"),
    )
    difference = "-"
    if bounds and row["settings"]:
        difference = f"{overall['difference_points']:+.1f} ({bounds[0]:+.1f} to {bounds[1]:+.1f})"
    return [
        label(row) if row["budget"] is None else f"{label(row)}@{row['budget']:g}",
        *(_percent(row["families"].get(family, {}).get("score")) for family in families),
        _percent(overall.get("score")),
        _percent(overall.get("retention")),
        difference,
        "-" if tokens is None else f"{tokens:.0f}",
        _percent(cost.get("flops_share")),
        "-" if seconds is None else f"{seconds:.2f}",
        _percent(evidence.get("recall")),
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def mark(folder: Path, suite: Path) -> int:
    """Mark a suite by the answers of an evaluation, and return how many questions were marked.

    Raises: InputError: the evaluation had a control, answered nothing, or is not of this suite.
    """
    path = folder / RUN
    if not path.is_file():
        raise InputError(f"{folder} holds no {RUN}; give the --out of an evaluation.")
    made = json.loads(path.read_text(encoding="utf-8"))
    if made["control"] != "none":
        raise InputError(
            f"{folder} was evaluated with control {made['control']}; mark by an evaluation without one."
        )
    if made["suite"] != suite_hash(load_suite(suite), suite):
        raise InputError(
            f"{folder} is no evaluation of {suite}; mark the suite that was evaluated."
        )
    return mark_hard(suite, hard_for_downscaling(read_records(folder)))


def main() -> None:
    """Print the table, or mark a suite."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="the --out of an evaluation")
    parser.add_argument(
        "--mark", type=Path, metavar="SUITE", help="folder of the suite that was evaluated"
    )
    args = parser.parse_args()
    if args.mark is not None:
        print(f"{mark(args.folder, args.mark)} questions marked in {args.mark}")
        return
    print(table(json.loads((args.folder / RESULTS).read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
