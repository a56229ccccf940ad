"""Answers batches on a Ray cluster: Ray Data hands them to actors, each of which holds a model.

The machine that runs the command writes the output, as it does without a cluster. So a row that a
dead actor may have answered and a second one answers again is written once, and a job continues
after a kill in the same way.

Only what Ray documents is used. Rows and records travel as lines of JSON.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sparsight.errors import ModelError, SettingError, UnsupportedError
from sparsight.needs import load_package
from sparsight.serve.batch.answering import Answerer
from sparsight.serve.batch.record import Record, read_record
from sparsight.serve.batch.rows import Row
from sparsight.serve.batch.settings import Asking

LOCAL = "local"  # starts a cluster on this machine, which ends with the command
USED = ("from_items", "ActorPoolStrategy", "DataContext")
MOST_BLOCKS = 10_000  # of a dataset; a block is what Ray hands out, and answers come by blocks

Build = Callable[[Asking, Path], Answerer]


class Actor:
    """Holds a model on one machine of the cluster.

    Args:
        build: returns what answers.
        asking: how rows are answered.
        base: folder that relative paths of images start from, the same on every machine.
    """

    def __init__(self, build: Build, asking: Asking, base: str) -> None:
        self._answerer = build(asking, Path(base))

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Return the records of batches of rows.

        Args: batch: "rows", each a JSON list of rows.
        """
        lines: list[str] = []
        halved: list[int] = []
        for text in batch["rows"]:
            before = self._answerer.halved
            rows = [Row(**{**row, "images": tuple(row["images"])}) for row in json.loads(text)]
            records = self._answerer.answer(rows)
            lines.append("".join(record.to_line() for record in records))
            halved.append(self._answerer.halved - before)
        return {"lines": lines, "halved": halved}


class Cluster:
    """A Ray cluster, on which batches are answered.

    Args:
        address: of the cluster, as `ray.init` takes it, or "local".
        workers: actors, each with a model.
        build: returns what answers; a function of a module, which Ray finds by its name.
        asking: how rows are answered.
        base: folder that relative paths of images start from.

    Raises:
        UnsupportedError: Ray is not installed, or lacks what is used of it.
        SettingError: the device has a number; Ray chooses which one an actor gets.
    """

    def __init__(
        self, address: str, workers: int, build: Build, asking: Asking, base: Path
    ) -> None:
        self._ray = load_package("ray", "--ray")
        self._data = load_package("ray", "--ray", "data")
        missing = [name for name in ("init", "shutdown") if not hasattr(self._ray, name)]
        missing += [f"data.{name}" for name in USED if not hasattr(self._data, name)]
        if missing:
            raise UnsupportedError(f"this Ray has no {', '.join(missing)}; install Ray 2.60.")
        if asking.device is not None and asking.device.startswith("cuda:"):
            raise SettingError(
                f"--device {asking.device} names one GPU; with --ray give cuda, or leave it out."
            )
        self._address = address
        self._workers = workers
        self._build = build
        self._asking = asking
        self._base = base
        self.halved = 0

    def answer_all(self, batches: Iterator[list[Row]]) -> Iterable[Sequence[Record]]:
        """Yield the records of each batch as they come.

        Raises: SettingError: the cluster cannot be reached, or has too few CPUs or GPUs.
        """
        items = [{"rows": json.dumps(list(map(asdict, batch)))} for batch in batches]
        self._start()
        try:
            yield from self._answer(items)
        finally:
            self._ray.shutdown()

    def _start(self) -> None:
        local = self._address == LOCAL
        options: dict[str, Any] = {"num_cpus": self._workers + 1} if local else {}
        try:
            self._ray.init(
                address=self._address,
                include_dashboard=False if local else None,
                log_to_driver=False,
                logging_level="ERROR",
                **options,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise SettingError(
                f"--ray {self._address} cannot be reached ({error}); give local or an address."
            ) from error

    def _answer(self, items: list[dict[str, str]]) -> Iterator[Sequence[Record]]:
        """Yield the records of each batch.

        Raises: ModelError: no worker can load the model, or one raised what no other can cure.
        """
        gpu = self._needs_gpu()
        asking = replace(self._asking, device="cuda" if gpu else self._asking.device or "cpu")
        context = self._data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        dataset = self._data.from_items(
            items, override_num_blocks=min(len(items), MOST_BLOCKS)
        ).map_batches(
            Actor,
            fn_constructor_args=(self._build, asking, str(self._base)),
            batch_size=1,
            batch_format="numpy",
            compute=self._data.ActorPoolStrategy(size=self._workers),
            num_gpus=1 if gpu else 0,
        )
        try:
            for row in dataset.iter_rows():
                self.halved += int(row["halved"])
                yield [read_record(line) for line in row["lines"].split("\n") if line]
        except self._ray.exceptions.RayError as error:
            last = [line for line in str(error).splitlines() if line.strip()][-1].strip()
            raise ModelError(f"a worker of the cluster failed for good: {last}") from error

    def _needs_gpu(self) -> bool:
        """Return whether each actor takes a GPU; without --device one is taken if there are any.

        Raises: SettingError: the cluster has too few.
        """
        there = self._ray.cluster_resources()
        gpus = int(there.get("GPU", 0))
        wanted = self._asking.device
        gpu = wanted == "cuda" or (wanted is None and gpus > 0)
        kind, count = ("GPU", gpus) if gpu else ("CPU", int(there.get("CPU", 0)))
        if count < self._workers:
            raise SettingError(
                f"--workers {self._workers} needs as many {kind}s, and the cluster has {count}; "
                "give fewer."
            )
        return gpu
