"""The loop that both stages run: steps, log, checkpoints and measurements, until the time is up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from stage import Clock, Log, Prefetch, Progress, save, step_with
from supply import Supply

T = TypeVar("T")
_NOTE_S, _SAVE_S = 10.0, 60.0  # seconds between lines of the log, and between checkpoints


@dataclass
class Trainer(Generic[T]):
    """The loop of a stage: steps until the time is up, with log, checkpoints and measurements.

    Args:
        log: receives a line every ten seconds.
        path: of the checkpoint.
        values: what a checkpoint holds.
        optimizer: over the trained ones of the values.
        clock: of the stage.
        progress: where the stage stands.
        losses: returns the loss of a batch under "loss", and what else is worth a line.
        measure: returns what the stage reaches on held-out rows.
        measure_s: seconds from one measurement to the next.
        supply: gives rows.
    """

    log: Log
    path: Path
    values: dict[str, torch.Tensor]
    optimizer: torch.optim.Optimizer
    clock: Clock
    progress: Progress
    losses: Callable[[T], dict[str, torch.Tensor]]
    measure: Callable[[], dict[str, Any]]
    measure_s: float
    supply: Supply

    def run(self, make: Callable[[int], T]) -> None:
        """Train until the time is up; `make` returns the batch of a step."""
        progress, clock = self.progress, self.clock
        batches = Prefetch(make, progress.step)
        noted = saved = measured = clock.seconds
        sums: dict[str, torch.Tensor] = {}
        since = progress.step
        while not progress.finished and clock.share(progress.step) < 1:
            parts = self.losses(batches.next())
            parts["norm"] = step_with(self.optimizer, parts["loss"], clock.rate(progress.step))
            progress.step += 1
            sums = {name: sums.get(name, 0.0) + value.detach() for name, value in parts.items()}
            if clock.seconds - noted > _NOTE_S:
                self._note(sums, progress.step - since)
                sums = {}
                since, noted = progress.step, clock.seconds
            if clock.seconds - saved > _SAVE_S:
                saved = clock.seconds
                self._save(self.optimizer)
            if clock.seconds - measured > self.measure_s:
                with clock.stopped():
                    self.log.write({"step": progress.step, "held_out": self.measure()})
                measured = clock.seconds
        batches.close()
        progress.finished = True
        self._save(None)

    def _note(self, sums: dict[str, torch.Tensor], steps: int) -> None:
        """Write the means of some steps; reading them waits for the device."""
        means = {name: round(float(value) / steps, 4) for name, value in sums.items()}
        row = {"step": self.progress.step, "seconds": round(self.clock.seconds, 1)}
        self.log.write({**row, **means, **self.supply.facts()})

    def _save(self, optimizer: torch.optim.Optimizer | None) -> None:
        self.progress.seconds, self.progress.shards = self.clock.seconds, self.supply.shards
        save(self.path, self.values, optimizer, self.progress)
