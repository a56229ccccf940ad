"""Rows, pictures and stores for `sparsight run`, and children that are killed at a chosen step."""

import json
import os
import signal
import warnings
from pathlib import Path

from PIL import Image

from sparsight.serve.batch.record import succeed
from sparsight.serve.batch.rows import Row, read_inputs
from sparsight.serve.batch.runner import run_job
from sparsight.serve.batch.store import Store

QUESTION = "what color is the shape ?"
STEPS = ("write", "fsync", "open", "truncate", "close")  # of os; Path.replace and unlink besides


def draw(path, shade=0, size=(40, 30)):
    """Write a picture that is not of one colour."""
    image = Image.linear_gradient("L").resize(size).point(lambda value: (value + shade) % 256)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.convert("RGB").save(path)
    return path


def write_jsonl(path, rows):
    """Write a table of rows."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_table(folder, count):
    """Write pictures, and a table with a question about each."""
    rows = []
    for number in range(count):
        draw(folder / f"{number}.png", number * 9, (30 + number % 3, 20))
        rows.append({"id": f"r{number}", "image": f"{number}.png", "question": QUESTION})
    return write_jsonl(folder / "rows.jsonl", rows)


def read_output(path):
    """Return the records of an output; each of its lines must be whole."""
    text = Path(path).read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.split("\n")[:-1]]


def answer(rows):
    """Answer rows without any model."""
    return [
        succeed(
            row,
            answer=f"about {row.id}",
            visual_tokens=9,
            visual_tokens_entering=3.0,
            prefill_flops_share=0.5,
        )
        for row in rows
    ]


def work(inputs, out, description, size=2):
    """Run a job without any model, or continue it, as the command does."""
    found = read_inputs(inputs, None)
    with Store(out, found.rows, description) as store:
        run_job(found, store, size, lambda batches: map(answer, batches))
        return store


def make_row(number, **changes):
    """Return a row."""
    values = {"id": f"r{number}", "images": (f"{number}.png",), "question": QUESTION, **changes}
    return Row(number, **values)


def run_in_child(task, kill_at=None):
    """Run a task in a process of its own; return whether it was killed.

    Args:
        task: a function.
        kill_at: the step on files, counted from 1, at which the process gets SIGKILL: a write has
            then written half of its bytes, any other step has not begun. None for never.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of every fork beside threads
        child = os.fork()
    if not child:
        try:
            if kill_at is not None:
                _set_trap(kill_at)
            task()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    assert killed or os.WEXITSTATUS(status) == 0, "the task failed"
    return killed


def _set_trap(kill_at):
    """Replace the steps on files by ones that count, and kill this process."""
    count = 0

    def step(original, half=None):
        def counted(*args, **options):
            nonlocal count
            count += 1
            if count == kill_at:
                if half is not None:
                    half(*args)
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        return counted

    real_write = os.write

    def write_half(file, data):
        real_write(file, bytes(data)[: len(data) // 2])

    for name in STEPS:
        original = getattr(os, name)
        setattr(os, name, step(original, write_half if name == "write" else None))
    for name in ("replace", "unlink"):
        setattr(Path, name, step(getattr(Path, name)))
