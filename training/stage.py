"""What both stages of a training run share: time budget, log, checkpoints, batches made ahead."""

from __future__ import annotations

import json
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn

T = TypeVar("T")
_AHEAD = 4  # batches
_WARMUP = 0.04  # share of the time
_LAST = 0.02  # of the peak learning rate


@dataclass(frozen=True)
class Machine:
    """Where the training computes.

    Args:
        device: cpu or cuda.
        dtype: of matrix products.
    """

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, device: str) -> Machine:
        """Return a machine; bfloat16 is used where the hardware has products for it."""
        if device == "cuda":
            torch.set_float32_matmul_precision("high")
            torch.backends.cuda.enable_cudnn_sdp(False)  # builds a plan for every new shape
            return cls(torch.device("cuda"), torch.bfloat16)
        info = Path("/proc/cpuinfo")
        fast = info.is_file() and "amx_bf16" in info.read_text(encoding="utf-8")
        return cls(torch.device("cpu"), torch.bfloat16 if fast else torch.float32)

    def autocast(self) -> torch.autocast:
        """Return the context in which matrix products have the machine's dtype."""
        enabled = self.dtype is not torch.float32
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def moved(self, value: torch.Tensor) -> torch.Tensor:
        """Return a tensor on the device; pinned ones are copied while the device computes."""
        return value.to(self.device, non_blocking=True)

    def pinned(self, value: torch.Tensor) -> torch.Tensor:
        """Return a tensor in memory that the device copies from on its own."""
        return value.pin_memory() if self.device.type == "cuda" else value


class Log:
    """Writes one JSON object per line and prints it.

    Args:
        path: the file, appended to.
        stage: stands in every line.
    """

    def __init__(self, path: Path, stage: str) -> None:
        self._path = path
        self._stage = stage

    def write(self, row: dict[str, Any]) -> None:
        """Append a line."""
        line = json.dumps({"stage": self._stage, **row})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)


class Clock:
    """The time budget of a stage; learning rates follow it.

    Args:
        minutes: the budget.
        spent: seconds that an earlier process spent on this stage.
        most: steps after which the stage ends in any case.
    """

    def __init__(self, minutes: float, spent: float, most: int | None = None) -> None:
        self._budget = 60 * minutes
        self._began = time.monotonic() - spent
        self._most = most

    @property
    def seconds(self) -> float:
        """Time spent so far."""
        return time.monotonic() - self._began

    def share(self, step: int) -> float:
        """Return the share of the stage that is done, by time or by steps."""
        by_steps = step / self._most if self._most else 0.0
        return max(self.seconds / self._budget, by_steps) if self._budget else 1.0

    def rate(self, step: int) -> float:
        """Return the share of the peak learning rate: linear warm-up, then cosine."""
        done = self.share(step)
        if done < _WARMUP:
            return max(0.01, done / _WARMUP)
        wave = 0.5 * (1 + math.cos(math.pi * min(1.0, (done - _WARMUP) / (1 - _WARMUP))))
        return _LAST + (1 - _LAST) * wave

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Do not count the time of a block."""
        before = time.monotonic()
        yield
        self._began += time.monotonic() - before


class Prefetch(Generic[T]):
    """Makes batches in a thread while the device computes.

    Args:
        make: returns the batch of a step.
        first: number of the first step.
    """

    def __init__(self, make: Callable[[int], T], first: int) -> None:
        self._queue: queue.Queue[T | Exception] = queue.Queue(_AHEAD)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(make, first), daemon=True)
        self._thread.start()

    def _run(self, make: Callable[[int], T], step: int) -> None:
        item: T | Exception
        while not self._ended.is_set():
            try:
                item = make(step)
            except Exception as error:  # raised where the batch is asked for
                item = error
            while not self._ended.is_set():
                try:
                    self._queue.put(item, timeout=0.5)
                    break
                except queue.Full:
                    continue
            step += 1

    def next(self) -> T:
        """Return the next batch.

        Raises:
            RuntimeError: making it failed.
        """
        item = self._queue.get()
        if isinstance(item, Exception):
            raise RuntimeError("a batch could not be made") from item
        return item

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join(10.0)


@dataclass
class Progress:
    """Where a stage stands.

    Args:
        step: steps done.
        seconds: time spent on them.
        shards: shards drawn so far.
        finished: whether the stage is over.
    """

    step: int = 0
    seconds: float = 0.0
    shards: int = 0
    finished: bool = False


def save(
    path: Path,
    values: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer | None,
    progress: Progress,
) -> None:
    """Write values and, for trained ones, both AdamW moments; the file appears in one move."""
    tensors = {name: value.detach() for name, value in values.items()}
    if optimizer is not None:
        for name, value in values.items():
            state = optimizer.state.get(value, {})
            if state:
                tensors[f"m:{name}"], tensors[f"v:{name}"] = state["exp_avg"], state["exp_avg_sq"]
    partial = path.with_suffix(".partial")
    tensors = {name: value.to("cpu").contiguous() for name, value in tensors.items()}
    save_file(tensors, partial, metadata={"progress": json.dumps(vars(progress))})
    partial.replace(path)


def restore(
    path: Path, values: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer | None
) -> Progress:
    """Read values and moments back, in place; a missing file changes nothing."""
    if not path.is_file():
        return Progress()
    tensors = load_file(path)
    progress = Progress(**json.loads(_metadata(path)["progress"]))
    with torch.no_grad():
        for name, value in values.items():
            value.copy_(tensors[name])
            if optimizer is not None and f"m:{name}" in tensors:
                optimizer.state[value] = {
                    "exp_avg": tensors[f"m:{name}"].to(value.device),
                    "exp_avg_sq": tensors[f"v:{name}"].to(value.device),
                    "step": torch.tensor(float(progress.step), device=value.device),
                }
    return progress


def _metadata(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    metadata: dict[str, str] = header["__metadata__"]
    return metadata


def step_with(optimizer: torch.optim.Optimizer, loss: torch.Tensor, rate: float) -> torch.Tensor:
    """Take one step at a share of the peak learning rates; return the gradient's norm, unread."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["peak"]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    trained = [value for group in optimizer.param_groups for value in group["params"]]
    norm = nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    return norm


def adam(groups: list[tuple[list[nn.Parameter], float]], decay: float) -> torch.optim.Optimizer:
    """Return AdamW over groups of parameters with their peak learning rates."""
    rows = [{"params": values, "lr": 0.0, "peak": peak} for values, peak in groups]
    return torch.optim.AdamW(rows, lr=0.0, betas=(0.9, 0.98), weight_decay=decay, fused=True)
