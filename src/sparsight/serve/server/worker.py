"""The line of requests, and the thread that owns the model and answers them."""

import logging
import time
from collections import deque
from threading import Condition, Thread

from sparsight.serve.server.batches import Host
from sparsight.serve.server.errors import RequestError, broken, explain, stopping
from sparsight.serve.server.jobs import Failed, Job
from sparsight.serve.server.metrics import Metrics

LOG = logging.getLogger("sparsight.serve")
TOGETHER = 0.01  # seconds that the first of a batch waits for others


class Line:
    """Jobs that wait, first come first served; those of one group leave together."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._changed = Condition()
        self._closed = False

    def put(self, job: Job) -> None:
        """Add a job.

        Raises: RequestError: the line is closed.
        """
        with self._changed:
            if self._closed:
                raise stopping()
            self._jobs.append(job)
            self._changed.notify_all()

    def cancel(self, job: Job) -> None:
        """Take a job out, or have the model stop with it."""
        with self._changed:
            job.cancelled = True
            if job in self._jobs:
                self._jobs.remove(job)

    def take(self, most: int) -> list[Job]:
        """Return the next batch; wait for it. Empty once the line is closed.

        Args: most: jobs of a batch.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if len(self._jobs) < most and not self._closed:
                self._changed.wait_for(lambda: len(self._jobs) >= most, TOGETHER)
            if not self._jobs:
                return []
            group = self._jobs[0].group
            batch = [job for job in self._jobs if job.group == group][:most]
            for job in batch:
                self._jobs.remove(job)
            return batch

    def close(self) -> list[Job]:
        """Let nobody in or out any more, and return the jobs that still wait."""
        with self._changed:
            self._closed = True
            left = list(self._jobs)
            self._jobs.clear()
            self._changed.notify_all()
            return left

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._closed


class Worker:
    """Answers the jobs of a line in a thread of its own until it is stopped.

    Args:
        host: that has the model.
        metrics: of the server.
        most: jobs of a batch.
    """

    def __init__(self, host: Host, metrics: Metrics, most: int) -> None:
        self.line = Line()
        self._host = host
        self._metrics = metrics
        self._most = most
        self._running: list[Job] = []
        self._thread = Thread(target=self._work, name="sparsight-model", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether jobs are still answered."""
        return self._thread.is_alive() and not self.line.closed

    def stop(self, seconds: float = 5.0) -> None:
        """Refuse what waits, have the model stop with what runs, and wait for the thread."""
        for job in [*self.line.close(), *self._running]:
            job.tell(Failed(stopping()))
            job.cancelled = True
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _work(self) -> None:
        while not self.line.closed:
            batch = self.line.take(self._most)
            if batch:
                self._running = batch
                self._metrics.running.set(len(batch))
                self._answer(batch)
                self._running = []
                self._metrics.running.set(0)

    def _answer(self, jobs: list[Job]) -> None:
        """Answer jobs together, and those of a batch that is refused one by one."""
        self._metrics.count_batch(jobs, time.monotonic())
        try:
            self._host.answer(jobs)
        except Exception as error:  # the thread outlives whatever a model raises
            refused = explain(error)
            if refused is None:
                LOG.error("a request failed", exc_info=error)
                refused = broken()
            self._settle(jobs, refused)

    def _settle(self, jobs: list[Job], error: RequestError) -> None:
        """Try jobs of a failed batch alone, as one of them may have spoilt it for the others."""
        if len(jobs) > 1 and not any(job.told for job in jobs):
            for job in jobs:
                if not job.cancelled:
                    self._answer([job])
            return
        for job in jobs:
            job.tell(Failed(error))
