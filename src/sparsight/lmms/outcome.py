"""Checks what a run of lmms-eval has written: a failed run exits with 0, like a good one.

python -m sparsight.lmms.outcome FOLDER TASK...     FOLDER is what --output_path named

Details of lmms-eval touched here, as of 0.7.3: it writes one file `*_results.json` for a run that
went through, with `results`, `n-samples` and `throughput`. Knows no lmms-eval otherwise.
"""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsight.errors import InputError, SparsightError

PATTERN = "*_results.json"
LARGEST = 1_000_000_000  # bytes of a file of results
BESIDE = ("alias", "samples")  # of a task's results; no metric


def read_outcome(folder: Path, tasks: Sequence[str]) -> dict[str, Any]:
    """Return the results of a run that went through.

    Args:
        folder: that `--output_path` named, of this run alone.
        tasks: that were asked for.

    Raises:
        InputError: no file of results, or several; a task without a result; a result without a
            number; or a task of which no question was answered.
    """
    files = sorted(folder.rglob(PATTERN)) if folder.is_dir() else []
    if not files:
        raise InputError(
            f"{folder} holds no {PATTERN}: the run failed, whatever its exit code; read what it "
            "printed."
        )
    if len(files) > 1:
        raise InputError(
            f"{folder} holds results of {len(files)} runs, and only one can be this run's; give "
            "each run a folder of its own."
        )
    results = _read(files[0])
    for task in tasks:
        _check_task(results, task)
    return results


def list_metrics(results: dict[str, Any], task: str) -> dict[str, float]:
    """Return the scores of a task by name, without their errors."""
    values = results["results"][task]
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and "_stderr" not in name
        and name not in BESIDE
    }


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LARGEST:
        raise InputError(f"{path} is larger than {LARGEST} bytes; it is no file of results.")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); run again.") from None
    if not isinstance(results, dict) or not isinstance(results.get("results"), dict):
        raise InputError(f"{path} holds no results; run again.")
    return results


def _check_task(results: dict[str, Any], task: str) -> None:
    """Check that a task has a score over at least one question."""
    if task not in results["results"]:
        raise InputError(
            f"task {task} has no result; there are {', '.join(results['results']) or 'none'}."
        )
    scores = list_metrics(results, task)
    if not any(math.isfinite(score) for score in scores.values()):
        raise InputError(f"task {task} has no score: {results['results'][task]}.")
    count = results.get("n-samples", {}).get(task, {})
    if isinstance(count, dict) and count.get("effective") == 0:
        raise InputError(f"task {task} answered no question.")


def main(words: Sequence[str]) -> int:
    """Check a run by its folder and tasks; return the exit code."""
    if len(words) < 2:
        sys.stderr.write("usage: python -m sparsight.lmms.outcome FOLDER TASK...\n")
        return 2
    folder, *tasks = words
    try:
        results = read_outcome(Path(folder), tasks)
    except SparsightError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    for task in tasks:
        for name, score in list_metrics(results, task).items():
            sys.stdout.write(f"{task}  {name}  {score}\n")
    for name, value in (results.get("throughput") or {}).items():
        sys.stdout.write(f"throughput  {name}  {value}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
