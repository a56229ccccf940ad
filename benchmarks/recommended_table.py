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
    "tried-dev-embedded-cpu.json",
    {
        "sparsight": "the whole method",
        "in-the-middle": "half of the tokens cut at two thirds of the depth, by raters' attention",
        "all-frames": "all images and frames chosen from together",
        "by-grid:chooser=max-min": "max-min instead of the determinant",
        "by-grid:chooser=coverage": "coverage instead of the determinant",
        "by-grid:words=true": "times the likeness to the question's embeddings",
        "by-grid:uncentred=true": "cosines without centring",
        "per-image": "more tokens for images with more that stands out",
    },
)


def write_recommended(source: tuple[str, dict[str, str]]) -> str:
    """Return one of the tables."""
    name, names = source
    return write_differences(json.loads((RESULTS / name).read_text(encoding="utf-8")), names)
