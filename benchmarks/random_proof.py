"""Prints how likely random tokens, or an even grid, keep enough evidence, part by part.

No model is needed.

python benchmarks/random_proof.py scenes-2
"""

import argparse
import statistics
from pathlib import Path

from sparsight.evaluate.proof import grid_keeps_enough, random_proof
from sparsight.evaluate.scenes import DEFAULT_SUITE, SUITES, Question, load_suite

BUDGETS = (192, 128, 64, 32)


def proof_table(suite: tuple[Question, ...]) -> str:
    """Return a Markdown table: mean chances of each part by budget, and what an even grid keeps."""
    parts: dict[tuple[str, str], list[Question]] = {}
    for question in suite:
        parts.setdefault((question.family, question.split), []).append(question)
    numbers = " | ".join(str(budget) for budget in BUDGETS)
    lines = [
        f"| family | part | questions | {numbers} | below 0.5 at 64 | even grid at 64 |",
        "| --- | --- | ---: |" + " ---: |" * (len(BUDGETS) + 2),
        *(_row(family, part, questions) for (family, part), questions in parts.items()),
        _row("all", "", list(suite)),
    ]
    return "\n".join(lines)


def _mean_chance(questions: list[Question], budget: int) -> float:
    return statistics.fmean(random_proof(question, budget) for question in questions)


def _row(family: str, part: str, questions: list[Question]) -> str:
    means = [_mean_chance(questions, budget) for budget in BUDGETS]
    below = sum(random_proof(question) < 0.5 for question in questions)
    grid = statistics.fmean(grid_keeps_enough(question) for question in questions)
    shares = " | ".join(f"{mean:.2f}" for mean in means)
    ends = f"{below / len(questions):.0%} | {grid:.2f}"
    return f"| {family} | {part} | {len(questions)} | {shares} | {ends} |"


def main() -> None:
    """Print the table of a suite."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "suite", nargs="?", default=DEFAULT_SUITE, help="name of a suite that ships, or a folder"
    )
    name = parser.parse_args().suite
    print(proof_table(load_suite(SUITES.get(name, Path(name)))))


if __name__ == "__main__":
    main()
