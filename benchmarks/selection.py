"""Times how long each method takes to choose, apart from any model.

    python benchmarks/selection.py --batch 1 8 --out benchmarks/results/selection-cpu.json

Views of random numbers have the widths of LLaVA-1.5-7B: 64 of 576 visual tokens (one image), 320 of
2,880 (five tiles), 1,600 of 16,000 (one image of 125 x 128; 64 frames for videos). Times are CPU
seconds. What the engine does for a method, reading the image encoder and rows of attention, is not
in them. Beside them stands dense prefill of the same tokens: its FLOPs, and the seconds they would
take at the rate at which this machine multiplies matrices, so that the share is the least that a
method could cost. Growth is the time at one size over the time at the size before; tokens grow 5
and 5.6 times.

A method is stopped after --limit seconds, and then not tried at the next size.
"""

import argparse
import json
import shlex
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from views import SIZES, Size, make_view, prefill_macs

from sparsight.bench.timing import collect_facts
from sparsight.cli.method import cli_name
from sparsight.errors import SparsightError
from sparsight.methods import methods
from sparsight.methods.answer import select_tokens
from sparsight.methods.method import Method


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure all methods, write the result file, print a table and return the result."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    rate = measure_rate()
    rows = []
    for kind in methods():
        if options.methods and cli_name(kind) not in options.methods:
            continue
        print(f"{cli_name(kind)} ...", file=sys.stderr)
        rows += measure_method(kind, options, rate)
    typed = sys.argv[1:] if arguments is None else arguments
    result = {
        "benchmark": "selection",
        "command": shlex.join(["python", "benchmarks/selection.py", *typed]),
        "flops_per_second": rate,
        "runs": options.runs,
        "facts": collect_facts(torch.device("cpu"), torch.float32),
        "rows": rows,
    }
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for row in rows:  # behind the file, which must not be lost if nobody reads them
        print(show(row))
    return result


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--methods", nargs="+", default=(), help="names; default: all")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--runs", type=int, default=3, help="runs of each; their median counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds; see above")
    parser.add_argument("--out", type=Path, help="file for the result as JSON")
    return parser.parse_args(arguments)


def measure_rate() -> float:
    """Return the floating-point operations per second of a large matrix product."""
    left, right = torch.randn(1024, 4096), torch.randn(4096, 4096)
    times = []
    for _ in range(4):
        start = time.process_time()
        left @ right
        times.append(time.process_time() - start)
    return 2 * left.numel() * right.shape[1] / min(times)


def measure_method(
    kind: type[Method], options: argparse.Namespace, rate: float
) -> list[dict[str, Any]]:
    """Return the rows of one method, one for each batch and size that it was tried at."""
    rows: list[dict[str, Any]] = []
    for batch in options.batch:
        before = None
        for size in SIZES:
            row = {"method": cli_name(kind), "batch": batch, "tokens": size.tokens}
            row |= {"keeps": size.keeps} | measure(kind, batch, size, options)
            if "seconds" in row:
                flops = 2 * batch * prefill_macs(size)
                row |= {"prefill_flops": flops, "share": row["seconds"] * rate / flops}
                row["growth"] = None if before is None else row["seconds"] / before
                before = row["seconds"]
            rows.append(row)
            if "refused" in row:
                break
    return rows


def measure(
    kind: type[Method], batch: int, size: Size, options: argparse.Namespace
) -> dict[str, Any]:
    """Return the median seconds of choosing at a method's first site, or why there are none."""
    signal.signal(signal.SIGALRM, stop)
    try:
        method = kind(retain=size.keeps)
        view = make_view(method, batch, size)
        times = []
        signal.setitimer(signal.ITIMER_REAL, options.limit * options.runs)
        with torch.inference_mode():
            for _ in range(options.runs):
                start = time.process_time()
                select_tokens(method, view, torch.Tensor.cpu)
                times.append(time.process_time() - start)
    except TimeoutError:
        return {"refused": f"more than {options.limit:g} seconds"}
    except SparsightError as error:
        return {"refused": str(error)}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {"seconds": statistics.median(times)}


def stop(number: int, frame: object) -> None:
    """End a run that takes too long."""
    raise TimeoutError


def show(row: dict[str, Any]) -> str:
    """Return a row for people."""
    start = f"{row['method']:16} batch {row['batch']}  {row['keeps']:5} of {row['tokens']:6}"
    if "refused" in row:
        return f"{start}  {row['refused']}"
    growth = "" if row["growth"] is None else f"  {row['growth']:.1f} times the size before"
    return f"{start}  {1000 * row['seconds']:9.1f} ms  {row['share']:.2%} of prefill{growth}"


if __name__ == "__main__":
    main()
