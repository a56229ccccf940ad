"""Measures the embedded model on easy-VQA's test split: image, processor, greedy `generate`.

Run: python training/evaluate_adapter.py --limit 400 --out result.json

Open questions (a colour or a shape) are reported apart from yes/no questions, of which the wording
alone predicts 84 % ("is there ...?" no, "is there not ...?" yes); "surprising" ones are those where
it predicts wrongly. The control asks the same open questions about other images: an accuracy far
above guessing there would mean that the answers do not come from the image.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from easy_vqa import EasyVQA, Question
from rich.progress import track
from shipping import write_manifest

from sparsight import SparseVLM, sparsify
from sparsight.bench.timing import collect_facts
from sparsight.inputs import prompt_inputs, user_message
from sparsight.models.embedded import cache_dir, load, prepare
from sparsight.models.embedded.adapter import apply_adapter, read_manifest

MAX_NEW_TOKENS = 8


def arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--adapter", type=Path, default=None, help="adapter folder; default is the shipped one"
    )
    parser.add_argument(
        "--cache", type=Path, default=None, help="cache folder of the embedded model"
    )
    parser.add_argument("--limit", type=int, default=400, help="open questions, drawn with --seed")
    parser.add_argument("--limit-yes-no", type=int, default=200)
    parser.add_argument("--limit-swapped", type=int, default=200)
    parser.add_argument(
        "--retain", nargs="*", default=["dense"], help="budgets: dense, a count or a fraction"
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="JSON file of the results")
    parser.add_argument(
        "--write-manifest", action="store_true", help="put the dense accuracies into the manifest"
    )
    return parser.parse_args()


def budget(text: str) -> int | float | None:
    """Return a budget: None is dense, an int counts visual tokens, a float is a fraction."""
    if text == "dense":
        return None
    return float(text) if "." in text else int(text)


@contextmanager
def pruned(model: Any, retain: int | float | None) -> Iterator[None]:
    """Apply a retention budget to the model for the block; None leaves it dense."""
    context: Any = nullcontext()
    if retain is not None:
        context = sparsify(model, SparseVLM(retain=retain))
    with context:
        yield


@dataclass(frozen=True)
class Case:
    """A question asked about an image, which is another one in the control."""

    question: Question
    image: int


def cases(questions: list[Question], limit: int, seed: int) -> list[Case]:
    """Return drawn questions, each about its own image."""
    drawn = random.Random(seed).sample(questions, min(limit, len(questions)))  # noqa: S311
    return [Case(question, question.image) for question in drawn]


def swapped(drawn: list[Case]) -> list[Case]:
    """Return each question with the image of the next question."""
    return [Case(a.question, b.image) for a, b in zip(drawn, drawn[1:] + drawn[:1], strict=True)]


def answers(model: Any, processor: Any, data: EasyVQA, batch: list[Case]) -> list[str]:
    """Return greedy answers to a left-padded batch."""
    messages = [[user_message(c.question.text, [data.image(c.image)])] for c in batch]
    inputs = prompt_inputs(model, processor, messages, {"padding": True})
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    new = output[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]


@dataclass(frozen=True)
class Subject:
    """What is evaluated, and on which images."""

    model: Any
    processor: Any
    data: EasyVQA
    batch: int

    def accuracy(self, asked: list[Case], title: str) -> float | None:
        """Return the share of answers that equal the expected word; None if nothing is asked."""
        # similar lengths, little padding
        asked = sorted(asked, key=lambda case: len(case.question.text))
        right = 0
        for start in track(range(0, len(asked), self.batch), title):
            batch = asked[start : start + self.batch]
            said = answers(self.model, self.processor, self.data, batch)
            right += sum(
                answer == case.question.answer for answer, case in zip(said, batch, strict=True)
            )
        return round(right / len(asked), 4) if asked else None


def evaluate(args: argparse.Namespace, subject: Subject) -> list[dict[str, Any]]:
    """Return one row of accuracies per budget."""
    open_cases = cases([q for q in subject.data.questions if q.is_open], args.limit, args.seed)
    closed_cases = cases(
        [q for q in subject.data.questions if not q.is_open], args.limit_yes_no, args.seed
    )
    hard_cases = cases(
        [q for q in subject.data.questions if q.kind == "surprising"], args.limit_yes_no, args.seed
    )
    suites = {"open": open_cases, "yes_no": closed_cases, "yes_no_surprising": hard_cases}
    suites["open_swapped"] = swapped(open_cases)[: args.limit_swapped]
    rows = []
    for text in args.retain:
        began = time.monotonic()
        row: dict[str, Any] = {"retain": text}
        with pruned(subject.model, budget(text)):
            for name, asked in suites.items():
                row[name] = subject.accuracy(asked, f"{text} {name}")
        rows.append(row | {"seconds": round(time.monotonic() - began, 1)})
    counts = {f"n_{name}": len(asked) for name, asked in suites.items()}
    return [row | counts for row in rows]


def main() -> None:
    """Load the model with the chosen adapter, evaluate it and write the results."""
    args = arguments()
    prepare(args.cache)
    model, processor = load(args.cache, adapter=args.adapter is None)
    if args.adapter is not None:
        apply_adapter(model, args.adapter)
    data = EasyVQA((args.cache or cache_dir()) / "training", "test")
    rows = evaluate(args, Subject(model, processor, data, args.batch))
    found = {
        "benchmark": "easy-VQA test split, exact match of greedy answers",
        "command": shlex.join(["python", "training/evaluate_adapter.py", *sys.argv[1:]]),
        "facts": collect_facts(model.device, model.dtype),
        "rows": rows,
    }
    text = json.dumps(found, indent=1)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")
    if args.write_manifest and args.adapter is not None:
        old = read_manifest(args.adapter)
        dense = {k: v for k, v in rows[0].items() if k not in ("retain", "seconds")}
        write_manifest(args.adapter, vars(old) | {"accuracy": dense})
    print(text)


if __name__ == "__main__":
    main()
