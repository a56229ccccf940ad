"""Measures images per second of `sparsight run`, dense against a budget, with the embedded model.

python benchmarks/batch.py --rows 16 --rounds 3 --out benchmarks/results/batch-embedded-cpu.json

A job is what the command does between loading the model and its summary: images are read, prompts
are built, answers are generated in batches and written through to the disk. Dense and sparse jobs
take turns, after one round that does not count. The rows are questions of the scenes that ship.
"""

import argparse
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from sparsight.bench.timing import collect_facts
from sparsight.cli.batch_job import build_answerer
from sparsight.evaluate.scenes import SPLIT, load_suite
from sparsight.models.embedded import prepare
from sparsight.serve.batch.answering import Answerer
from sparsight.serve.batch.rows import Inputs, read_inputs
from sparsight.serve.batch.runner import run_job
from sparsight.serve.batch.settings import Asking
from sparsight.serve.batch.store import Store


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=16, help="images of a job")
    parser.add_argument("--rounds", type=int, default=3, help="jobs of each kind")
    parser.add_argument("--batch-size", type=int, default=8, help="rows answered together")
    parser.add_argument("--method", default="sparsight", help="that prunes")
    parser.add_argument("--retain", default="64", help="budget")
    parser.add_argument("--out", type=Path, default=None, help="JSON file of the results")
    return parser.parse_args()


def write_table(folder: Path, count: int) -> Path:
    """Write a table of questions about one still image each, and return it."""
    questions = [one for one in load_suite(SPLIT) if len(one.images) == 1 and not one.frames]
    chosen = [questions[part * len(questions) // count] for part in range(count)]
    lines = []
    for question in chosen:
        image = (SPLIT / "images" / question.images[0]).absolute()
        row = {"id": question.id, "image": str(image), "question": question.turns[0].question}
        lines.append(json.dumps(row) + "\n")
    table = folder / "rows.jsonl"
    table.write_text("".join(lines), encoding="utf-8")
    return table


def time_job(answerer: Answerer, inputs: Inputs, size: int) -> tuple[float, list[dict[str, Any]]]:
    """Return the seconds of a job, and its records."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.jsonl"
        start = time.perf_counter()
        with Store(out, inputs.rows, {}) as store:
            run_job(inputs, store, size, lambda batches: map(answerer.answer, batches))
        seconds = time.perf_counter() - start
        return seconds, [json.loads(line) for line in out.read_text("utf-8").split("\n")[:-1]]


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the results of all jobs."""
    inputs = read_inputs(write_table(folder, args.rows), None)
    asking = Asking(method=args.method, retain=args.retain, device="cpu")
    sparse = build_answerer(asking, inputs.base)
    jobs = {"dense": sparse.without_pruning(), "sparse": sparse}
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    load: list[float] = []
    records: dict[str, list[dict[str, Any]]] = {}
    for number in track(range(args.rounds + 1), "jobs"):
        order = list(jobs) if number % 2 else list(jobs)[::-1]
        for name in order:
            taken, records[name] = time_job(jobs[name], inputs, args.batch_size)
            if number:  # the first round warms up
                seconds[name].append(round(taken, 3))
        load.append(round(os.getloadavg()[0], 2))
    return compare(seconds, records, args.rows) | {"load_average": load}


def compare(
    seconds: dict[str, list[float]], records: dict[str, list[dict[str, Any]]], rows: int
) -> dict[str, Any]:
    """Return images per second, their ratio, and what the model's FLOPs promise."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    dense = {one["row"]: one["answer"] for one in records["dense"]}
    shares = [one["prefill_flops_share"] for one in records["sparse"]]
    same = [dense[one["row"]] == one["answer"] for one in records["sparse"]]
    return {
        "seconds": seconds,
        "images_per_second": {name: round(rows / value, 3) for name, value in medians.items()},
        "speed_ratio": round(medians["dense"] / medians["sparse"], 3),
        "prefill_flops_ratio": round(1 / statistics.fmean(shares), 3),
        "visual_tokens": {
            "before": records["sparse"][0]["visual_tokens"],
            "entering": round(
                statistics.fmean(one["visual_tokens_entering"] for one in records["sparse"]), 2
            ),
        },
        "same_answers": f"{sum(same)}/{rows}",
        "errors": sum(one["error"] is not None for found in records.values() for one in found),
    }


def main() -> None:
    """Measure, print and write the results."""
    args = parse()
    prepare()
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "benchmark": "sparsight run: images per second of a job, the model loaded before",
            "command": shlex.join(["python", *sys.argv]),
            "rows": args.rows,
            "batch_size": args.batch_size,
            "method": args.method,
            "retain": args.retain,
            "max_new_tokens": Asking().max_new_tokens,
            **measure(args, Path(folder)),
            "facts": collect_facts(torch.device("cpu"), torch.float32),
        }
    if args.out is not None:
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
