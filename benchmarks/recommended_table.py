"""Tables of the recommended method: what its parts add, the best others, and what was left out."""

import json
from pathlib import Path

from budgets_table import write_differences

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


def write_recommended(source: tuple[str, dict[str, str]]) -> str:
    """Return one of the tables."""
    name, names = source
    return write_differences(json.loads((RESULTS / name).read_text(encoding="utf-8")), names)
