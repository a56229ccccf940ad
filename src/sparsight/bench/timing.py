"""Timing, and the facts that a timing is worth nothing without: hardware, versions, commit.

Knows how to run a model once, on either kind of device; knows nothing of methods. Nothing is
printed here.
"""

import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

import sparsight
from sparsight.engine.compat import cache_argument, output_cache
from sparsight.families import family_of

Task = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Timing:
    """One quantity, measured several times.

    Args: runs_ms: milliseconds of each run, in the order of running; at least one.
    """

    runs_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """Median of the runs."""
        return statistics.median(self.runs_ms)

    def as_dict(self) -> dict[str, Any]:
        """Return median, least, most and every run, in milliseconds."""
        return {
            "median": self.median_ms,
            "min": min(self.runs_ms),
            "max": max(self.runs_ms),
            "runs": list(self.runs_ms),
        }


def synchronize(device: torch.device) -> None:
    """Wait until the device has done everything it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleave(
    tasks: Mapping[str, Task],
    runs: int,
    warm_up: int = 1,
    report: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, Timing]]:
    """Run several tasks in turns, so that whatever else the machine does meets all of them alike.

    Every other round runs backwards, so that no task always profits from its predecessor.

    Args:
        tasks: by name, what runs once and returns milliseconds by name of quantity.
        runs: rounds that count, at least 1.
        warm_up: rounds before them.
        report: called before each task with the tasks done and their total.
    Returns: by task and quantity, the timings.
    """
    found: dict[str, dict[str, list[float]]] = {name: {} for name in tasks}
    names, done, total = list(tasks), 0, (warm_up + runs) * len(tasks)
    for turn in range(warm_up + runs):
        for name in names if turn % 2 == 0 else names[::-1]:
            if report is not None:
                report(done, total)
            for quantity, ms in tasks[name]().items():
                if turn >= warm_up:
                    found[name].setdefault(quantity, []).append(ms)
            done += 1
    return {
        name: {key: Timing(tuple(ms)) for key, ms in rows.items()} for name, rows in found.items()
    }


@torch.no_grad()
def time_generation(model: nn.Module, inputs: Mapping[str, Any], steps: int) -> dict[str, float]:
    """Run a prefill and some greedy decode steps, once.

    Args:
        model: a model of a supported family, pruned or not.
        inputs: what the processor returned, on the model's device.
        steps: decode steps, at least 1.
    Returns: milliseconds: "ttft" from the inputs to the first token, image encoder included;
    "prefill" of the text
        decoder in it, choosing included; "decode" per token after it.
    """
    device = inputs["input_ids"].device
    with _decoder_clock(model, device) as laps:
        start = _now(device)
        output = model(**inputs, use_cache=True, logits_to_keep=1)
        token = output.logits[:, -1:].argmax(dim=-1)
        first = _now(device)
        decode = _time_decode(model, inputs, output_cache(output), token, steps)
    return {"ttft": (first - start) * 1e3, "prefill": laps[0] * 1e3, "decode": decode}


def _time_decode(
    model: nn.Module, inputs: Mapping[str, Any], cache: Any, token: torch.Tensor, steps: int
) -> float:
    """Return milliseconds per greedy step."""
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(inputs["input_ids"]) if mask is None else mask
    device = token.device
    start = _now(device)
    for _ in range(steps):
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        output = model(
            input_ids=token, attention_mask=mask, **cache_argument(model, cache), use_cache=True
        )
        token = output.logits[:, -1:].argmax(dim=-1)
    return (_now(device) - start) * 1e3 / steps


@contextmanager
def _decoder_clock(model: nn.Module, device: torch.device) -> Iterator[list[float]]:
    """Collect the seconds of the text decoder's first call, hooks of others on it included."""
    family = family_of(model)
    decoder = family.base_model(model).get_submodule(family.decoder)
    starts: list[float] = []
    laps: list[float] = []

    def before(*_: Any) -> None:
        if not starts:
            starts.append(_now(device))

    def after(*_: Any) -> None:
        if not laps:
            laps.append(_now(device) - starts[0])

    handles = (
        decoder.register_forward_pre_hook(before, prepend=True),
        decoder.register_forward_hook(after),
    )
    try:
        yield laps
    finally:
        for handle in handles:
            handle.remove()


def _now(device: torch.device) -> float:
    synchronize(device)
    return time.perf_counter()


def facts(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Return what a timing depends on: hardware, number format, versions and the commit of this checkout."""
    cuda = device.type == "cuda"
    return {
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "transformers": transformers.__version__,
        "sparsight": sparsight.__version__,
        "commit": commit(),
    }


def cpu_name(info: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's model name, as far as the system tells."""
    try:
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (
        line.split(":", 1)[1].strip()
        for line in lines
        if line.startswith("model name") and ":" in line
    )
    return next(names, "") or platform.processor() or platform.machine()


def commit(package: Path = Path(sparsight.__file__).parent) -> str | None:
    """Return the commit of the checkout that this package runs from, "-dirty" behind it if files differ.

    Returns: None outside of a checkout; a package installed inside somebody else's repository is
    not in one.
    """
    git = shutil.which("git")
    top = None if git is None else _git(git, package, "rev-parse", "--show-toplevel")
    if git is None or top is None or Path(top, "src", "sparsight") != package.resolve():
        return None
    return _git(git, package, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(git: str, folder: Path, *command: str) -> str | None:
    # the command is fixed by the callers, no user's text is in it
    done = subprocess.run([git, *command], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() or None if done.returncode == 0 else None
