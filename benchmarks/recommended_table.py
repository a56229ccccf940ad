"""Tables of the recommended method: what its parts add, the best others, and what was left out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from budgets_table import describe_run, write_differences

RESULTS = Path(__file__).parent / "results"
# result file, and its configurations with what they are
ABLATION = (
    "ablation-dev-embedded-cpu.json",
    {
        "sparsight": "the whole method",
        "sparsight:where=input": "without the horizon",
        "by-grid:attention=true": "times the fourth root of the class token's attention",
    },
)
CLOSEUP = (
    "closeup-embedded-cpu.json",
    {
        "sparsight": "`sparsight`",
        "sparsight:where=input": "`sparsight:where=input`",
        "visionzip": "`visionzip`",
        "scope": "`scope`",
        "cdpruner": "`cdpruner`",
        "uniform": "`uniform`",
    },
)
FIRST = (
    "recommended-scenes-1-embedded-cpu.json",
    {
        "sparsight": "`sparsight`",
        "sparsight:where=input": "`sparsight:where=input`",
    },
)
TRIED = (
    "trials-dev-embedded-cpu.json",
    {
        "sparsight": "the whole method",
        "sparsight:sites=0/24": "the horizon two layers earlier, at 24 of 30",
        "in-the-middle": "half of the tokens cut at layer 20, by the raters' attention",
        "coverage": "coverage, as SCOPE chooses, times the root of the class token's attention",
        "per-image": "more tokens for images with more that stands out",
    },
)
TOLD = (
    "told-dev-embedded-cpu.json",
    {
        "sparsight": "`sparsight`",
        "told:fill=chosen": "all evidence, filled up by `sparsight`",
        "told:fill=even": "all evidence, filled up by an even grid",
    },
)

LEVELS = ("level-dev-embedded-cpu.json", "level-embedded-cpu.json")
FIXED, ADAPTIVE = "sparsight", "sparsight:level=adaptive"
PART = "document"


def write_levels() -> str:
    """Return what an adaptive level adds to questions that have something to read."""
    heads = ["split", "`retain`", "reading, fixed", "adaptive", "difference, 95 %"]
    heads += ["documents, fixed", "adaptive", "tokens, fixed", "adaptive"]
    lines = [_join(heads), _join(["---", *["---:"] * (len(heads) - 1)])]
    for name in LEVELS:
        results = _read(name)
        rows = {row["key"]: row for row in results["configurations"]}
        for budget in (128, 64, 32):
            pair = [rows[f"{method}@{budget}"] for method in (FIXED, ADAPTIVE)]
            split = "test" if name == LEVELS[1] else "dev"
            lines.append(_join([split, str(budget), *_compare(*pair)]))
    note = (
        f"{results['suite']['questions']} questions of the family reading a split, {PART}s "
        f"{pair[0]['families']['reading']['splits'][PART]['n']} of them; share answered rightly in "
        "%, difference in points with its 95 % interval by a paired bootstrap. Tokens: mean that "
        "enter a layer, over these questions. "
    )
    return "\n".join([*lines, "", note + describe_run(results)])


def write_pages() -> str:
    """Return which pictures an adaptive level takes for pages of text."""
    parts = _read("pages-dev-embedded-cpu.json")["parts"]
    heads = ["pictures of", "images", "keep more", "times, mean", "times, most"]
    lines = [_join(heads), _join(["---", *["---:"] * (len(heads) - 1)])]
    for name, part in parts.items():
        numbers = [f"{part['images']}", f"{part['more']}", f"{part['mean']:.2f}"]
        lines.append(_join([name, *numbers, f"{part['most']:.2f}"]))
    note = (
        "Images or frames of a family's questions, of reading those of each part; how many keep "
        "more than the planned count, and how many times as much they keep."
    )
    return "\n".join([*lines, "", note])


def _compare(fixed: Mapping[str, Any], adaptive: Mapping[str, Any]) -> list[str]:
    pair = (fixed, adaptive)
    other = adaptive["over_recommended"]
    low, high = other["interval_points"]
    parts = [row["families"]["reading"]["splits"][PART]["accuracy"] for row in pair]
    return [
        *(f"{100 * row['overall']['score']:.1f}" for row in pair),
        f"{other['difference_points']:+.1f} ({low:+.1f} to {high:+.1f})",
        *(f"{100 * part:.0f}" for part in parts),
        *(f"{row['cost']['mean_visual_tokens']:.0f}" for row in pair),
    ]


def write_recommended(source: tuple[str, dict[str, str]]) -> str:
    """Return one of the tables."""
    name, names = source
    return write_differences(_read(name), names)


def _read(name: str) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return results


def _join(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
