"""Training rows, drawn by processes beside the training and handed out in batches.

Every shard follows from its number, so nothing is stored. Rows that were handed out are kept for a
while: where training is faster than drawing, some are shown again, with other questions.
"""

from __future__ import annotations

import collections
import multiprocessing
import os
import queue
import random
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from packing import Prompt
from recipes import ONE, RECIPES, SHARES, Row, Shape, Source, draw, draw_held_out, shares
from transformers import LlavaProcessor

_AHEAD = 3  # shards per process that wait to be read
_SILENCE_S = 300.0
_BLOCK = 4  # held-out rows that are drawn together


@dataclass(frozen=True)
class Order:
    """What the drawing processes do.

    Args:
        model: folder of the base model, for its tokenizer.
        cache: folder of easy-VQA's wheel.
        fonts: folder of fonts beside Pillow's own; None for none.
        first: number of the first shard.
        workers: how many processes.
        held_out: held-out rows of each recipe.
        recipes: names of those that are drawn.
    """

    model: Path
    cache: Path
    fonts: Path | None
    first: int
    workers: int
    held_out: int
    recipes: tuple[str, ...] = tuple(RECIPES)


def _work(order: Order, index: int, out: Any, stop: Any) -> None:
    """Draw held-out blocks and then shards, every `workers`-th of them, until told to stop."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        for item in _made(order, index):
            while not stop.is_set():
                try:
                    out.put(item, timeout=1.0)
                    break
                except queue.Full:
                    continue
            if stop.is_set():
                break
    except Exception:
        out.put(("failed", "", traceback.format_exc(), []))
    if stop.is_set():
        out.cancel_join_thread()


def _made(order: Order, index: int) -> Iterator[tuple[str, Any, Any, list[Row]]]:
    torch.set_num_threads(1)
    prompt = Prompt.of(LlavaProcessor.from_pretrained(order.model, local_files_only=True))
    blocks = [
        (name, range(at, min(at + _BLOCK, order.held_out)))
        for at in range(0, order.held_out, _BLOCK)
        for name in order.recipes
    ]
    source = Source.of(prompt, order.cache, "test", order.fonts)
    for name, numbers in blocks[index :: order.workers]:
        yield ("held-out", name, *draw_held_out(source, name, numbers))
    source = Source.of(prompt, order.cache, "train", order.fonts)
    number = order.first + index
    while True:
        yield ("train", number, *draw(source, number, order.recipes))
        number += order.workers


class Supply:
    """Starts the drawing processes and gives out their rows.

    Args:
        order: what they do.
        keep: rows of each shape that are kept to be shown again.
        seed: of the draws among kept rows.
    """

    def __init__(self, order: Order, keep: int, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._queue = context.Queue(_AHEAD * order.workers)
        self._stop = context.Event()
        self._rng = random.Random(seed)  # noqa: S311
        self.shares = shares(order.recipes)
        self._fresh: dict[Shape, collections.deque[Row]] = {s: collections.deque() for s in SHARES}
        self._kept: dict[Shape, collections.deque[Row]] = {
            shape: collections.deque(maxlen=max(1, keep if shape == ONE else keep // 8))
            for shape in SHARES
        }
        self._ready = threading.Condition()
        self._failure: str | None = None
        self._limit = keep
        self.held_out: dict[str, tuple[Shape, list[Row]]] = {}
        self.shards = order.first
        self.drawn: collections.Counter[Shape] = collections.Counter()
        self.shown: collections.Counter[Shape] = collections.Counter()
        self._missing = len(order.recipes) * order.held_out
        self._processes = [
            context.Process(target=_work, args=(order, i, self._queue, self._stop), daemon=True)
            for i in range(order.workers)
        ]
        for process in self._processes:
            process.start()
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        while not self._stop.is_set():
            with self._ready:
                full = sum(map(len, self._fresh.values())) >= self._limit
                if full:
                    self._ready.wait(0.2)
                    continue
            try:
                what, name, content, rows = self._queue.get(timeout=1.0)
            except queue.Empty:
                self._look_after()
                continue
            with self._ready:
                self._store(what, name, content, rows)
                self._ready.notify_all()

    def _look_after(self) -> None:
        """Note that a process died without a word, as one killed for memory does."""
        dead = [process.exitcode for process in self._processes if not process.is_alive()]
        if dead and not self._stop.is_set():
            with self._ready:
                self._failure = self._failure or f"drawing processes ended with codes {dead}"
                self._ready.notify_all()

    def _store(self, what: str, name: Any, content: Any, rows: list[Row]) -> None:
        if what == "failed":
            self._failure = content
        elif what == "held-out":
            shape, have = self.held_out.get(name, (content, []))
            self.held_out[name] = (shape, [*have, *rows])
            self._missing -= len(rows)
        else:
            self._fresh[content].extend(rows)
            self.drawn[content] += len(rows)
            self.shards += 1

    def wait(self, rows: int) -> None:
        """Wait for all held-out rows, and for some training rows.

        Raises:
            RuntimeError: drawing failed, or nothing came for minutes.
        """
        self._until(lambda: len(self._fresh[ONE]) >= rows and not self._missing)

    def _until(self, enough: Any) -> None:
        with self._ready:
            if not self._ready.wait_for(lambda: self._failure or enough(), _SILENCE_S):
                raise RuntimeError(f"no training rows came for {_SILENCE_S:.0f} s")
            if self._failure:
                raise RuntimeError(f"drawing failed: {self._failure}")

    def take(self, shape: Shape, count: int) -> list[Row]:
        """Return rows of a shape: new ones first, then kept ones, drawn at random.

        Raises:
            RuntimeError: drawing failed, or nothing came for minutes.
        """
        self._until(lambda: self._fresh[shape] or self._kept[shape])
        with self._ready:
            fresh, kept = self._fresh[shape], self._kept[shape]
            rows = [fresh.popleft() for _ in range(min(count, len(fresh)))]
            kept.extend(rows)
            rows += self._rng.choices(kept, k=count - len(rows)) if len(rows) < count else []
            self.shown[shape] += count
            self._ready.notify_all()
        return rows

    def facts(self) -> dict[str, float]:
        """Return rows drawn and shown so far, rows that wait, and GB of the GPU in use at most."""
        memory = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0
        return {
            "drawn": sum(self.drawn.values()),
            "shown": sum(self.shown.values()),
            "waiting": sum(map(len, self._fresh.values())),
            "gpu_gb": round(memory, 1),
        }

    def forget(self) -> None:
        """Drop all kept rows, so that the next stage sees new ones."""
        with self._ready:
            for kept in self._kept.values():
                kept.clear()

    def close(self) -> None:
        """End the drawing processes."""
        self._stop.set()
        for process in self._processes:
            process.join(5.0)
            if process.is_alive():
                process.terminate()
