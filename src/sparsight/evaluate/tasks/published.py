"""Published rows beside an evaluation's results, as ratios to the dense row of their source."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from sparsight.errors import BudgetError
from sparsight.evaluate.settings import DENSE
from sparsight.evaluate.tasks.task import Task
from sparsight.methods.sparsevlm import SparseVLM

FILE = Path(__file__).with_name("published.json")
DENSE_OF = {
    "paper-v1": "paper-v4",
    "paper-v4-recycling": "paper-v4",
}  # sources that quote the dense row of another one
# methods whose published budgets are of settings of their own, and what is changed in these
OWN_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "sparsevlm": {},
    "sparsevlm:recycle=false": {"recycle": False},
}
OTHER_MODEL = "model "  # begins what differs
NO_WORDS = re.compile(r"[^a-z0-9.]+")


@cache
def read_published() -> Mapping[str, Any]:
    """Return what was published: `sources`, `notes` on benchmarks, and `rows`."""
    document: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return document


def is_model(published: str, name: str) -> bool:
    """Return whether a model's name is one of a published model, such as llava-1.5-7b.

    Args:
        published: short name of the model.
        name: hub id or folder; only its last part counts.
    """
    last = NO_WORDS.sub("-", name.rstrip("/").rsplit("/", 1)[-1].lower())
    plain = last.replace("llava-v1.5", "llava-1.5")
    return plain.startswith(published)


def find_rows(
    task: Task, key: str, model: str, size: tuple[int, int], settings: str = ""
) -> list[dict[str, Any]]:
    """Return the published rows that stand beside one configuration's result on a benchmark.

    Args:
        task: the benchmark.
        key: of the configuration, such as "sparsevlm@192".
        model: that was evaluated.
        size: questions that were asked, and questions of the benchmark's file.
        settings: of the configuration's method, as the folder's description has them.

    Returns:
        For each row, those of the same model first, `source`, `value`, `dense`, `ratio` (None where
        either is missing), and `differs`, in what the run is another one; an empty list where it is
        the same.
    """
    published = read_published()
    name, _, budget = key.partition("@")
    rows = []
    for row in published["rows"]:
        own_budget = "" if row["budget"] is None else f"{row['budget']:g}"
        if (row["task"], row["method"], own_budget) != (task.name, name, budget):
            continue
        source = published["sources"][row["source"]]
        dense = _find_dense(published["rows"], row)
        differs = [] if is_model(source["model"], model) else [OTHER_MODEL + source["model"]]
        usual = task.count or min(size[1], task.sample or size[1])
        if size[0] != usual:
            differs.append(f"{usual} questions")
        differs += _compare_settings(name, row["budget"], settings)
        if task.judged:
            differs.append("judge not named")
        rows.append(
            {
                "source": row["source"],
                "value": row["value"],
                "dense": dense,
                "ratio": None if dense is None else row["value"] / dense,
                "differs": differs,
            }
        )
    return sorted(rows, key=_is_of_other_model)


def _compare_settings(name: str, budget: int | None, settings: str) -> list[str]:
    """Return in what the settings of a run are not those of the published row."""
    if name not in OWN_PRESETS or budget is None:
        return []
    try:
        published = replace(SparseVLM.paper(budget), **OWN_PRESETS[name])
    except BudgetError:
        return ["sites and counts, which were not published"]
    return [] if settings == repr(published) else ["the authors' settings (--paper)"]


def _is_of_other_model(row: Mapping[str, Any]) -> bool:
    return any(text.startswith(OTHER_MODEL) for text in row["differs"])


def _find_dense(rows: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> float | None:
    """Return the score of the dense model in the same source and on the same benchmark."""
    source = DENSE_OF.get(row["source"], row["source"])
    for other in rows:
        same = (other["source"], other["task"], other["method"]) == (
            source,
            row["task"],
            DENSE.name,
        )
        if same:
            return float(other["value"])
    return None


def add_published(
    rows: Sequence[dict[str, Any]],
    tasks: Mapping[str, Task],
    model: str,
    sizes: Mapping[str, tuple[int, int]],
    methods: Mapping[str, str],
) -> None:
    """Put `published` into each result on a benchmark, and `outside` where they can be compared.

    `outside` says whether the ratio of the first row lies outside the interval of the run's
    retention; None where the run differs from the published one, or has no interval.

    Args:
        rows: results of configurations.
        tasks: by name.
        model: that was evaluated.
        sizes: questions asked, and questions of the file, by benchmark.
        methods: settings by key of the configuration.
    """
    for row in rows:
        for name, summary in row["tasks"].items():
            task = tasks[name]
            found = find_rows(task, row["key"], model, sizes[name], methods[row["key"]])
            bounds = summary.get("interval")
            same = found and not found[0]["differs"] and found[0]["ratio"] is not None
            summary["published"] = found
            summary["outside"] = (
                not bounds[0] <= found[0]["ratio"] <= bounds[1] if bounds and same else None
            )
