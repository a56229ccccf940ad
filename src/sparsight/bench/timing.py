"""Times a model, and collects what a timing depends on: hardware, versions, commit.

Knows how to run a model once, on the CPU or a GPU; knows nothing of methods. Nothing is printed.
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

    Args:
        runs_ms: milliseconds of each run, in the order of running; at least one.
    """

    runs_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """Median of the runs."""
        return statistics.median(self.runs_ms)

    def as_dict(self) -> dict[str, Any]:
        """Return the median, the least, the most and every run, in milliseconds."""
        return {
            "median": self.median_ms,
            "min": min(self.runs_ms),
            "max": max(self.runs_ms),
            "runs": list(self.runs_ms),
        }


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all work that was given to it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleave(
    tasks: Mapping[str, Task],
    runs: int,
    warm_up: int = 1,
    report: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, Timing]]:
    """Return timings of several tasks, which run in turns.

    In turns, because other load on the machine then slows all of them alike. Every other round runs
    backwards, so that no task always profits from the one before it.

    Args:
        tasks: functions by name; each runs once, and returns milliseconds by name of quantity.
        runs: rounds that count, at least 1.
        warm_up: rounds before them that do not count.
        report: called before each task with the number of tasks done and in total.

    Returns:
        The timings, by task and quantity.
    """
    times: dict[str, dict[str, list[float]]] = {name: {} for name in tasks}
    names = list(tasks)
    done = 0
    total = (warm_up + runs) * len(tasks)
    for turn in range(warm_up + runs):
        for name in names if turn % 2 == 0 else names[::-1]:
            if report is not None:
                report(done, total)
            for quantity, ms in tasks[name]().items():
                if turn >= warm_up:
                    times[name].setdefault(quantity, []).append(ms)
            done += 1
    timings: dict[str, dict[str, Timing]] = {}
    for name, quantities in times.items():
        timings[name] = {quantity: Timing(tuple(ms)) for quantity, ms in quantities.items()}
    return timings


@torch.no_grad()
def time_generation(model: nn.Module, inputs: Mapping[str, Any], steps: int) -> dict[str, float]:
    """Return the milliseconds of one prefill and of greedy decode steps behind it.

    Args:
        model: of a supported family, pruned or not.
        inputs: outputs of the processor, on the model's device.
        steps: decode steps, at least 1.

    Returns:
        "ttft": from the inputs to the first token, image encoder included. "prefill": the text
        decoder's part of it, choosing tokens included. "decode": per token after the first.
    """
    device = inputs["input_ids"].device
    with _time_decoder(model, device) as laps:
        start = _read_clock(device)
        output = model(**inputs, use_cache=True, logits_to_keep=1)
        token = output.logits[:, -1:].argmax(dim=-1)
        first = _read_clock(device)
        decode = _time_decode(model, inputs, output_cache(output), token, steps)
    return {"ttft": (first - start) * 1e3, "prefill": laps[0] * 1e3, "decode": decode}


def _time_decode(
    model: nn.Module, inputs: Mapping[str, Any], cache: Any, token: torch.Tensor, steps: int
) -> float:
    """Return the milliseconds per greedy decode step."""
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(inputs["input_ids"]) if mask is None else mask
    # With a mask, models with M-RoPE give a new token the positions of the whole sequence, and fail
    # outside of generate(), which gives positions itself. Without one, they give it its own.
    masked = family_of(model).rotary_axes == 1 or not bool(mask.all())
    device = token.device
    start = _read_clock(device)
    for _ in range(steps):
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)  # (B, N + 1)
        given = {"attention_mask": mask} if masked else {}
        output = model(input_ids=token, **given, **cache_argument(model, cache), use_cache=True)
        token = output.logits[:, -1:].argmax(dim=-1)  # (B, 1)
    return (_read_clock(device) - start) * 1e3 / steps


@contextmanager
def _time_decoder(model: nn.Module, device: torch.device) -> Iterator[list[float]]:
    """Yield a list that gets the seconds of the text decoder's first call, pruning included."""
    family = family_of(model)
    decoder = family.base_model(model).get_submodule(family.decoder)
    starts: list[float] = []
    laps: list[float] = []

    def before(*_: Any) -> None:
        if not starts:
            starts.append(_read_clock(device))

    def after(*_: Any) -> None:
        if not laps:
            laps.append(_read_clock(device) - starts[0])

    handles = (
        decoder.register_forward_pre_hook(before, prepend=True),
        decoder.register_forward_hook(after),
    )
    try:
        yield laps
    finally:
        for handle in handles:
            handle.remove()


def _read_clock(device: torch.device) -> float:
    synchronize(device)
    return time.perf_counter()


def collect_facts(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Return what a timing depends on: hardware, dtype, versions and commit of this checkout."""
    cuda = device.type == "cuda"
    return {
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "cpu": read_cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "transformers": transformers.__version__,
        "sparsight": sparsight.__version__,
        "commit": read_commit(),
    }


def read_cpu_name(info: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's model name, or its architecture where the system does not say it."""
    try:
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.startswith("model name") and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def read_commit(package: Path = Path(sparsight.__file__).parent) -> str | None:
    """Return the commit of the checkout that this package runs from, "-dirty" if files differ.

    Returns:
        None outside of a checkout. A package that is installed inside the repository of another
        project runs from no checkout.
    """
    git = shutil.which("git")
    top = None if git is None else _git(git, package, "rev-parse", "--show-toplevel")
    if git is None or top is None or Path(top, "src", "sparsight") != package.resolve():
        return None
    return _git(git, package, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(git: str, folder: Path, *command: str) -> str | None:
    # the callers write the command; no text of a user is in it
    done = subprocess.run([git, *command], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() or None if done.returncode == 0 else None
