"""Counts which pictures of a suite `Sparsight(level="adaptive")` takes for pages of text.

python benchmarks/pages.py scenes-2-dev --out pages.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from sparsight.bench.timing import collect_facts
from sparsight.evaluate.scenes import SUITES, Question, load_images, load_suite
from sparsight.methods.parts.scores import share_distinct
from sparsight.methods.sparsight import STANDS_OUT, stretch
from sparsight.models.embedded import load


def main() -> None:
    """Measure the pictures of every part, and write how much more of them is kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("suite", choices=sorted(SUITES))
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    model, processor = load()
    parts: dict[str, list[float]] = {}
    for question in load_suite(SUITES[given.suite]):
        name = question.split if question.family == "reading" else question.family
        parts.setdefault(name, []).extend(measure(model, processor, question, SUITES[given.suite]))
    document = {
        "suite": given.suite,
        "parts": {},
        "facts": collect_facts(model.device, model.dtype),
    }
    for name, factors in parts.items():
        document["parts"][name] = sum_up(factors)
    given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def sum_up(factors: list[float]) -> dict[str, float]:
    """Return how many images keep more, and how many times their planned count images keep."""
    more = sum(factor > 1 for factor in factors)
    mean = sum(factors) / len(factors)
    return {"images": len(factors), "more": more, "mean": mean, "most": max(factors)}


@torch.no_grad()
def measure(model: Any, processor: Any, question: Question, folder: Path) -> list[float]:
    """Return how many times the planned count each image or frame keeps."""
    images = load_images(question, folder)
    pixels = processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
    output = model.model.get_image_features(pixel_values=pixels)
    tokens = torch.stack(list(getattr(output, "pooler_output", output)))  # (I, V, D)
    factors: list[float] = stretch(share_distinct(tokens, STANDS_OUT)).tolist()
    return factors


if __name__ == "__main__":
    main()
