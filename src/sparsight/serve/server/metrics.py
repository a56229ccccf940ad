"""What the server counts, for Prometheus; each server has a registry of its own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sparsight.serve.server.jobs import Done, Job

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters, gauges and histograms of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        on = self.registry
        self._responses = Counter(
            "sparsight_responses", "Responses by status.", ["status"], registry=on
        )
        self.waiting = Gauge("sparsight_queue_length", "Requests that wait.", registry=on)
        self.running = Gauge("sparsight_running", "Requests at the model.", registry=on)
        self._wait = Histogram(
            "sparsight_queue_seconds", "Time in the line.", buckets=SECONDS, registry=on
        )
        self._first = Histogram(
            "sparsight_time_to_first_token_seconds",
            "From the request to its first token.",
            buckets=SECONDS,
            registry=on,
        )
        self._batch = Histogram(
            "sparsight_batch_size", "Requests answered together.", buckets=BATCHES, registry=on
        )
        self._before = Counter(
            "sparsight_visual_tokens_before",
            "Visual tokens of prompts.",
            ["method"],
            registry=on,
        )
        self._after = Counter(
            "sparsight_visual_tokens_after",
            "Visual tokens that entered a decoder layer, on average.",
            ["method"],
            registry=on,
        )
        self._prompt = Counter("sparsight_prompt_tokens", "Tokens of prompts.", registry=on)
        self._generated = Counter("sparsight_generated_tokens", "Tokens of answers.", registry=on)

    def count_response(self, status: int) -> None:
        """Count a response."""
        self._responses.labels(str(status)).inc()

    def count_batch(self, jobs: list[Job], now: float) -> None:
        """Count a batch that the model begins with."""
        self._batch.observe(len(jobs))
        for job in jobs:
            self._wait.observe(now - job.created)

    def count_first(self, job: Job, now: float) -> None:
        """Count the first token of an answer."""
        self._first.observe(now - job.created)

    def count_done(self, job: Job, done: Done) -> None:
        """Count an answer that is complete."""
        name = "dense" if job.prompt.method is None else job.prompt.method.name
        self._before.labels(name).inc(done.cost.visual_tokens)
        self._after.labels(name).inc(done.cost.entering)
        self._prompt.inc(job.prompt.tokens)
        self._generated.inc(done.tokens)

    def write(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)
