"""Asks the second question of every two-turn scene in three ways: first, after the first one, and on its cache.

python -c 'from pathlib import Path; from sparsight.evaluate.scenes import compose_suite as compose
compose(1, "test", share=4).write(Path("runs/suite"))'
python benchmarks/two_turns.py --suite runs/suite --retain dense 192 64 --out
runs/two-turns-embedded-cpu.json

"first" asks it alone; "image" and "cache" ask it as the later turn of a Chat, which prunes anew or
goes on with the pruned cache. Seconds are of the last turn alone, in bfloat16; all budgets and ways
take turns, question by question, after one round that does not count. Evidence is the share of the
visual tokens that the second answer rests on which are there behind the last site.
"""

import argparse
import json
import shlex
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL.Image import Image
from rich.progress import track

from sparsight import Chat, SparseVLM, sparsify
from sparsight.bench.timing import collect_facts
from sparsight.evaluate import cast_weights
from sparsight.evaluate.evidence import find_evidence_tokens, measure_recall
from sparsight.evaluate.scenes import SPLIT, Question, load_images, load_suite
from sparsight.evaluate.scoring import normalise
from sparsight.models.embedded import load, prepare
from sparsight.sparsify import Run

WAYS = ("first", "image", "cache")


class Answer(NamedTuple):
    """Whether an answer is right, its seconds, and the share of its evidence that was left."""

    right: bool
    seconds: float
    left: float


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--retain",
        nargs="+",
        default=["dense", "192", "128", "64"],
        help="budgets: dense or a count",
    )
    parser.add_argument(
        "--suite",
        type=Path,
        default=SPLIT,
        help="folder of scenes; default is the split that ships",
    )
    parser.add_argument("--limit", type=int, default=None, help="questions; default is all")
    parser.add_argument("--out", type=Path, default=None, help="JSON file of the results")
    return parser.parse_args()


def ask(
    model: Any, processor: Any, question: Question, images: list[Image], way: str
) -> tuple[bool, float]:
    """Return whether the second question is answered rightly in one way, and the seconds that it took."""
    chat = Chat(
        model,
        processor,
        reuse="cache" if way == "cache" else "image",
        max_new_tokens=10,
        do_sample=False,
    )
    first, second = question.turns
    if way != "first":
        chat.ask(first.question, images)
    began = time.perf_counter()
    answer = chat.ask(second.question, images if way == "first" else ())
    return normalise(answer) == normalise(second.answer), time.perf_counter() - began


def evidence_left(run: Run, question: Question, images: list[Image]) -> float:
    """Return the share of the second answer's evidence that is there behind the last site."""
    layout = run.trace.layouts[0]
    if layout is None:
        raise ValueError("this model's visual tokens lie nobody knows where")
    evidence = find_evidence_tokens(
        question.turns[1].boxes, [image.size for image in images], layout
    )
    recall, _ = measure_recall(run.trace.samples[0], evidence)
    if recall is None:
        raise ValueError(f"question {question.id} rests on nothing")
    return recall[-1]


def measure(model: Any, processor: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return, for every budget and way, what was answered rightly and the median seconds."""
    questions = [question for question in load_suite(args.suite) if question.family == "two-turn"][
        : args.limit
    ]
    found: dict[tuple[str, str], list[Answer]] = {
        (retain, way): [] for retain in args.retain for way in WAYS
    }
    for number, question in enumerate(track([questions[0], *questions], "ask")):
        images = load_images(question, args.suite)
        for (retain, way), answers in found.items():
            with (
                nullcontext()
                if retain == "dense"
                else sparsify(model, SparseVLM(retain=int(retain))) as run
            ):
                right, seconds = ask(model, processor, question, images, way)
                left = 1.0 if run is None else evidence_left(run, question, images)
            if number:
                answers.append(Answer(right, seconds, left))
    rows = []
    for retain in args.retain:
        row: dict[str, Any] = {"retain": retain}
        for way in WAYS:
            answers = found[retain, way]
            row[way] = {"right": [answer.right for answer in answers]}
            row[way]["seconds_median"] = round(
                statistics.median(answer.seconds for answer in answers), 4
            )
            row[way]["evidence_mean"] = round(
                statistics.fmean(answer.left for answer in answers), 4
            )
        rows.append(row)
    return rows


def main() -> None:
    """Measure every budget."""
    args = arguments()
    prepare()
    model, processor = load()
    cast_weights(model, torch.bfloat16)
    rows = measure(model, processor, args)
    command = shlex.join(["python", *sys.argv])
    result = {
        "command": command,
        "facts": collect_facts(torch.device("cpu"), torch.bfloat16),
        "rows": rows,
    }
    text = json.dumps(result, indent=2) + "\n"
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
