"""Asks the second question of every two-turn scene first, after the first one, and on its cache.

python -c 'from pathlib import Path; from sparsight.evaluate.scenes import compose_suite as compose
compose(1, "test", share=4).write(Path("runs/suite"))'
python benchmarks/two_turns.py --suite runs/suite --retain dense 192 64 --out
runs/two-turns-embedded-cpu.json

"first" asks it alone. "image" and "cache" ask it as the later turn of a Chat, which prunes the
image again or continues on the pruned cache. Seconds are of the last turn alone, in bfloat16. All
budgets and orders take turns, question by question, after one round that does not count. Evidence
is the share of the visual tokens that the second answer rests on which are left behind the last
site.
"""

import argparse
import json
import shlex
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from PIL.Image import Image
from rich.progress import track

from sparsight import Chat, SparseVLM, sparsify
from sparsight.bench.timing import collect_facts
from sparsight.evaluate import cast_weights, find_evidence_tokens, measure_recall
from sparsight.evaluate.scenes import SPLIT, Question, load_images, load_suite
from sparsight.evaluate.scoring import is_right
from sparsight.models.embedded import load, prepare
from sparsight.run import Run

Order = Literal["first", "image", "cache"]
ORDERS: tuple[Order, ...] = get_args(Order)


class Answer(NamedTuple):
    """Whether an answer is right, its seconds, and the share of its evidence that was left."""

    right: bool
    seconds: float
    left: float


def parse() -> argparse.Namespace:
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
    model: Any, processor: Any, question: Question, images: list[Image], order: Order
) -> tuple[bool, float]:
    """Return whether the second question is answered rightly, and the seconds that it took."""
    reuse: Literal["image", "cache"] = "cache" if order == "cache" else "image"
    chat = Chat(model, processor, reuse=reuse, max_new_tokens=10, do_sample=False)
    first, second = question.turns
    if order != "first":
        chat.ask(first.question, images)
    start = time.perf_counter()
    answer = chat.ask(second.question, images if order == "first" else ())
    return is_right(answer, second.answer), time.perf_counter() - start


def measure_evidence(run: Run, question: Question, images: list[Image]) -> float:
    """Return the share of the second answer's evidence that is left behind the last site."""
    layout = run.trace.layouts[0]
    if layout is None:
        raise ValueError("it is not known where this model's visual tokens lie")
    sizes = [image.size for image in images]
    evidence = find_evidence_tokens(question.turns[1].boxes, sizes, layout)
    recall, _ = measure_recall(run.trace.samples[0], evidence)
    if recall is None:
        raise ValueError(f"question {question.id} has no evidence")
    return recall[-1]


def ask_at(
    model: Any,
    processor: Any,
    question: Question,
    images: list[Image],
    *,
    order: Order,
    retain: str,
) -> Answer:
    """Return the answer to the second question at one budget."""
    if retain == "dense":
        context: Any = nullcontext()
    else:
        context = sparsify(model, SparseVLM(retain=int(retain)))
    with context as run:
        right, seconds = ask(model, processor, question, images, order)
        left = 1.0 if run is None else measure_evidence(run, question, images)
    return Answer(right, seconds, left)


def measure(model: Any, processor: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return for every budget and order the marks, median seconds and mean evidence left."""
    questions = [one for one in load_suite(args.suite) if one.family == "two-turn"][: args.limit]
    answers: dict[tuple[str, Order], list[Answer]] = {}
    for number, question in enumerate(track([questions[0], *questions], "ask")):
        images = load_images(question, args.suite)
        for retain in args.retain:
            for order in ORDERS:
                answer = ask_at(model, processor, question, images, order=order, retain=retain)
                if number:  # the first round warms up
                    answers.setdefault((retain, order), []).append(answer)
    rows = []
    for retain in args.retain:
        row: dict[str, Any] = {"retain": retain}
        for order in ORDERS:
            row[order] = summarise(answers[retain, order])
        rows.append(row)
    return rows


def summarise(answers: list[Answer]) -> dict[str, Any]:
    """Return marks, median seconds and mean evidence left of the answers at one budget."""
    return {
        "right": [answer.right for answer in answers],
        "seconds_median": round(statistics.median(answer.seconds for answer in answers), 4),
        "evidence_mean": round(statistics.fmean(answer.left for answer in answers), 4),
    }


def main() -> None:
    """Measure every budget."""
    args = parse()
    prepare()
    model, processor = load()
    cast_weights(model, torch.bfloat16)
    rows = measure(model, processor, args)
    command = shlex.join(["python", *sys.argv])
    facts = collect_facts(torch.device("cpu"), torch.bfloat16)
    text = json.dumps({"command": command, "facts": facts, "rows": rows}, indent=2) + "\n"
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
