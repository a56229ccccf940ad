"""Kills a worker, and then the command itself, half way through `sparsight run --ray local`.

python benchmarks/scale_kill.py --out benchmarks/results/scale-kill-cpu.json

A tiny model of random weights answers; what counts is that no row is lost and none stands twice.
First one of two workers gets SIGKILL when a third of the rows is written; the job has to finish
without help. Then the command itself gets SIGKILL, and the same command continues. Linux only.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
import torch
from PIL import Image
from rich.console import Console

from sparsight.bench.timing import collect_facts

WORKER = "ray::MapWorker"  # how Ray calls the process of an actor of Ray Data
LONGEST = 400.0  # seconds that a step may take


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True, help="folder of a tiny model")
    parser.add_argument("--rows", type=int, default=90, help="rows of the job")
    parser.add_argument("--out", type=Path, default=None, help="JSON file of the results")
    return parser.parse_args()


def write_inputs(folder: Path, count: int) -> Path:
    """Write pictures and a table of questions about them, and return the table."""
    lines = []
    for number in range(count):
        picture = Image.linear_gradient("L").resize((40, 30)).convert("RGB")
        picture.putpixel((0, 0), (number % 256, number // 256, 0))
        picture.save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "question": "what color is it ?"}))
    table = folder / "rows.jsonl"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def start(table: Path, out: Path, model: Path) -> subprocess.Popen[bytes]:
    """Start the job with two workers."""
    words = ["run", table, "--out", out, "--model", model.absolute(), "--retain", "12"]
    words += ["--batch-size", "1", "--max-new-tokens", "16", "--ray", "local", "--workers", "2"]
    command = [sys.executable, "-m", "sparsight", *map(str, words)]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env=settings)  # noqa: S603


def list_processes() -> Iterator[tuple[int, int, str]]:
    """Yield number, parent and title of each process."""
    for folder in Path("/proc").iterdir():
        try:
            stat = (folder / "stat").read_text()
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (OSError, NotADirectoryError):
            continue
        if folder.name.isdigit():
            yield int(folder.name), int(stat.rpartition(")")[2].split()[1]), title


def list_descendants(root: int) -> dict[int, str]:
    """Return number and title of all processes that a process has started."""
    processes = list(list_processes())
    found: dict[int, str] = {}
    reached = {root}
    while True:
        new = {
            number: title
            for number, parent, title in processes
            if parent in reached and number not in found
        }
        if not new:
            return found
        found |= new
        reached |= set(new)


def list_workers(root: int) -> list[int]:
    """Return the processes of a job that hold a model."""
    return [number for number, title in list_descendants(root).items() if title.startswith(WORKER)]


def count_lines(out: Path) -> int:
    """Return how many rows are written."""
    return out.read_bytes().count(b"\n") if out.exists() else 0


def wait_for(done: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until something is so; fail if the job ends before."""
    end = time.monotonic() + LONGEST
    while not done():
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"the job ended too early, or never: code {process.returncode}")
        time.sleep(0.01)


def examine(out: Path, count: int) -> dict[str, Any]:
    """Return what is wrong with an output that should hold each row once."""
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    numbers = [record["row"] for record in records]
    return {
        "rows": len(numbers),
        "lost": sorted(set(range(1, count + 1)) - set(numbers)),
        "twice": sorted({number for number in numbers if numbers.count(number) > 1}),
        "errors": [record["error"] for record in records if record["error"]],
    }


def finish(process: subprocess.Popen[bytes]) -> int:
    """Wait for the job, and return its exit code."""
    return process.wait(LONGEST)


def end_all(numbers: list[int]) -> None:
    """End processes that a job left behind."""
    for number in numbers:
        if WORKER in read_title(number) or "ray" in read_title(number):
            os.kill(number, signal.SIGKILL)


def read_title(number: int) -> str:
    """Return the title of a process; "" if it has ended."""
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def kill_worker(table: Path, out: Path, model: Path, count: int) -> dict[str, Any]:
    """Kill one of two workers when a third of the rows is written."""
    process = start(table, out, model)
    started: list[int] = []
    try:
        wait_for(lambda: count_lines(out) >= count // 3, process)
        before = list_workers(process.pid)
        started = list(list_descendants(process.pid))
        os.kill(before[0], signal.SIGKILL)
        at = count_lines(out)
        wait_for(lambda: bool(set(list_workers(process.pid)) - set(before)), process)
        started = list(list_descendants(process.pid))
        code = finish(process)
    finally:
        process.kill()
        end_all(started)
    return {
        "workers": len(before),
        "rows_when_killed": at,
        "exit_code": code,
        **examine(out, count),
    }


def kill_command(table: Path, out: Path, model: Path, count: int) -> dict[str, Any]:
    """Kill the command when a third of the rows is written, and run it again."""
    process = start(table, out, model)
    started: list[int] = []
    try:
        wait_for(lambda: count_lines(out) >= count // 3, process)
        started = list(list_descendants(process.pid))
    finally:
        process.kill()
        process.wait()
        end_all(started)
    at = count_lines(out)
    again = start(table, out, model)
    try:
        code = finish(again)
    finally:
        again.kill()
    return {"rows_when_killed": at, "exit_code": code, **examine(out, count)}


KILLS = {"worker": kill_worker, "command": kill_command}


def main() -> None:
    """Run both jobs, write what became of them, and print it."""
    args = parse()
    console = Console(stderr=True)
    results: dict[str, Any] = {
        "benchmark": "rows lost or doubled when a worker, or the command, is killed half way",
        "asked": args.rows,
        "ray": ray.__version__,
        "facts": collect_facts(torch.device("cpu"), torch.float32),
    }
    with tempfile.TemporaryDirectory() as folder:
        table = write_inputs(Path(folder), args.rows)
        for name, kill in KILLS.items():
            out = Path(folder) / f"{name}.jsonl"
            results[name] = kill(table, out, args.model, args.rows)
    if args.out is not None:  # first: it must not be lost if nobody reads what is printed
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name in KILLS:
        console.print(name, results[name])
    print(json.dumps(results))


if __name__ == "__main__":
    main()
