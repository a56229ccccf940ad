"""Tables of an evaluation on benchmarks: scores, retention with intervals, published ratios."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from sparsight.evaluate.tasks.kinds import AND

MEANS = {
    "images": "mean, image sets",
    "images_unjudged": "mean, without judged sets",
    "videos": "mean, video sets",
}
TOGETHER = "kinds_together"
DETAILS = ("parts", "kinds", TOGETHER)  # of a result, each with scores by name
BESIDE = 5  # configurations beside each other


def show_tasks(results: dict[str, Any], console: Console, out: Path) -> None:
    """Print scores, retention, published rows, costs and refusals.

    Args:
        results: document of results.json.
        console: that is printed to.
        out: folder that holds the results.
    """
    console.print()
    console.print(_build_scores(results))
    console.print(_build_costs(results["configurations"]))
    for start in range(0, len(results["configurations"]), BESIDE):
        rows = results["configurations"][start : start + BESIDE]
        details = _build_details(results["tasks"], rows)
        if details.row_count:
            console.print(details)
    for line in _list_notes(results, out):
        console.print(line, style="dim", highlight=False, markup=False)


def _build_scores(results: dict[str, Any]) -> Table:
    columns = ("", "", "n", "score", "retention", "95 % interval", "published", "of scores")
    table = _start_table(*columns)
    for name, facts in results["tasks"].items():
        for row in results["configurations"]:
            if name in row["tasks"]:
                table.add_row(facts["title"], row["key"], *_format_result(row["tasks"][name]))
        table.add_section()
    for name, title in MEANS.items():
        for row in results["configurations"]:
            if name in row["means"]:
                mean = row["means"][name]
                cells = [_percent(mean["retention"]), _interval(mean["interval"])]
                count = f"{len(mean['tasks'])} set{'s' * (len(mean['tasks']) > 1)}"
                table.add_row(title, row["key"], count, "", *cells, _average(row, mean), "")
    return table


def _format_result(result: dict[str, Any]) -> list[str | Text]:
    """Return the cells of one configuration's result on one benchmark."""
    unjudged = result["unjudged"]
    count = str(result["n"]) + (f" ({unjudged} unjudged)" if unjudged else "")
    if result["score"] is None:
        return [count, "not judged", "-", "-", "-", "-"]
    score = f"{result['score']:.1f}"
    if "judge_score" in result:
        score += f" / {result['judge_score']:.2f}"
    cells: list[str | Text] = [
        count,
        score,
        _percent(result["retention"]),
        _interval(result["interval"]),
    ]
    published = result["published"]
    if not published:
        return [*cells, "-", "-"]
    first = published[0]
    style = "red" if result["outside"] else "dim" if first["differs"] else ""
    ratio = _percent(first["ratio"]) + (" !" if result["outside"] else "")
    values = f"{first['value']:g}"
    if first["dense"] is not None and first["value"] != first["dense"]:
        values = f"{first['value']:g} of {first['dense']:g}"
    return [*cells, Text(ratio, style), Text(values, style)]


def _average(row: dict[str, Any], mean: dict[str, Any]) -> Text:
    """Return the mean of the published ratios of the same benchmarks, where all were published."""
    found = [row["tasks"][name]["published"][:1] for name in mean["tasks"]]
    ratios = [one["ratio"] for rows in found for one in rows if one["ratio"] is not None]
    whole = len(ratios) == len(mean["tasks"])
    return Text(_percent(sum(ratios) / len(ratios)) if whole else "-", "dim")


def _build_costs(rows: list[dict[str, Any]]) -> Table:
    table = _start_table("", "visual tokens", "kept", "kept, authors' count", "FLOPs", "seconds")
    for row in rows:
        cost = row["cost"]
        if cost is not None:
            table.add_row(
                row["key"],
                f"{cost['visual_tokens']:.0f}",
                f"{cost['mean_visual_tokens']:.0f}",
                f"{cost['mean_visual_tokens_authors']:.0f}",
                _percent(cost["flops_share"]),
                f"{cost['seconds_median']:.2f}",
            )
    return table


def _build_details(tasks: dict[str, Any], rows: Sequence[dict[str, Any]]) -> Table:
    """Return scores by part and kind of question, configurations side by side."""
    table = _start_table("", "", "n")
    for row in rows:
        table.add_column(row["key"], justify="right", overflow="fold")
    for task, facts in tasks.items():
        own = [row["tasks"].get(task, {}) for row in rows]
        for field in DETAILS:
            found = [result.get(field, {}) for result in own]
            for name in dict.fromkeys(name for one in found for name in one):
                values = [one.get(name) for one in found]
                cells = [_count(values), *map(_format_detail, values)]
                table.add_row(facts["title"], _name_detail(field, name), *cells)
            if any(found):
                table.add_section()
    return table


def _name_detail(field: str, name: str) -> str:
    """Return how a part or kind is called; a kind that stands alone is told from the kind."""
    return f"{name} only" if field == TOGETHER and AND not in name else name


def _count(values: Sequence[Any]) -> str:
    """Return how many questions are of a kind; of parts it is not known."""
    counts = [str(one["n"]) for one in values if isinstance(one, dict)]
    return counts[0] if counts else ""


def _format_detail(value: Any) -> str:
    """Return the score of a part, or of a kind."""
    score = value["score"] if isinstance(value, dict) else value
    return "-" if score is None else f"{score:.1f}"


def _list_notes(results: dict[str, Any], out: Path) -> list[str]:
    """Return what has to be known beside the numbers."""
    lines = []
    for key, reasons in (results["refused"] or {}).items():
        lines += [f"{key} refuses {name}: {reason}" for name, reason in reasons.items()]
    for row in results["configurations"]:
        for name, count in row["incomplete"].items():
            facts = results["tasks"][name]
            lines.append(
                f"{row['key']} has answered {count} of {facts['asked']} questions of "
                f"{facts['title']}, and is left out there"
            )
    lines += _list_differences(results)
    for facts in results["tasks"].values():
        if facts["note"]:
            lines.append(f"{facts['title']}: {facts['note']}")
    judge = results["judge"]
    if judge is not None:
        wording = "sparsight's own wording" if judge["own_wordings"] else "a wording of yours"
        lines.append(f"judge {', '.join(judge['named']) or judge['asked']}, {wording}")
    lines.append(
        f"{results['model']} in {results['dtype']}; scores in %, of MME in points; retention: "
        "share of this run's dense score, in %; 95 % intervals by paired bootstrap; ! where a "
        f"published ratio lies outside; results in {out}"
    )
    return lines


def _list_differences(results: dict[str, Any]) -> list[str]:
    """Return in what the published rows beside the results are of another evaluation."""
    differs: dict[str, dict[str, None]] = {}  # titles by difference, each once and in order
    for row in results["configurations"]:
        for name, result in row["tasks"].items():
            for rows in result.get("published", [])[:1]:
                for text in rows["differs"]:
                    differs.setdefault(text, {})[results["tasks"][name]["title"]] = None
    return [f"published rows differ in: {text} ({', '.join(on)})" for text, on in differs.items()]


def _start_table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, name in enumerate(columns):
        justify: JustifyMethod = "right" if number > 1 else "left"
        # where there is no room, the keys of configurations break, and are not cut
        table.add_column(name, justify=justify, no_wrap=number != 1, overflow="fold")
    return table


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def _interval(bounds: list[float] | None) -> str:
    return "-" if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}"
