"""Answers a batch of requests with one generate(): each row ends, and is told, on its own."""

import copy
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from sparsight.run import Run
from sparsight.sequence.trace import Stats
from sparsight.serve.joining import join
from sparsight.serve.server.answers import Answer
from sparsight.serve.server.jobs import Cost, Done, Job, Started, Text
from sparsight.serve.server.metrics import Metrics
from sparsight.sparsify import sparsify


class Watch(StoppingCriteria):
    """Sees every new token of a batch, tells each job its text, and ends rows that are done.

    generate() asks it once a step, with the tokens so far.

    Args:
        jobs: (B,) of the batch.
        answers: (B,) that grow.
        run: that prunes; None for the dense model.
        metrics: of the server.
    """

    def __init__(
        self, jobs: Sequence[Job], answers: Sequence[Answer], run: Run | None, metrics: Metrics
    ) -> None:
        self._jobs = jobs
        self._answers = answers
        self._run = run
        self._metrics = metrics
        self._costs: list[Cost] = []
        self.open = list(jobs)

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor | None, **kwargs: Any
    ) -> torch.Tensor:
        """Return (B,) bool, which rows are done."""
        del scores, kwargs
        first = not self._costs
        if first:
            self._costs = list_costs(self._jobs, self._run)
        for row, token in enumerate(input_ids[:, -1].tolist()):
            job = self._jobs[row]
            if first:
                self._metrics.count_first(job, time.monotonic())
            if job in self.open:
                self._add(row, job, token)
        done = [job not in self.open for job in self._jobs]
        return torch.tensor(done, device=input_ids.device)

    def _add(self, row: int, job: Job, token: int) -> None:
        """Tell a job its next token."""
        if job.cancelled:
            self.open.remove(job)
            return
        answer = self._answers[row]
        new = answer.add(token)
        if new:
            job.tell(Text(new))
        if answer.reason is not None:
            done = Done(answer.reason, answer.count, self._costs[row])
            self.open.remove(job)
            self._metrics.count_done(job, done)
            job.tell(done)


class Host:
    """Owns the model while requests are answered. Used by one thread.

    Args:
        model: that answers.
        processor: of the model; its tokenizer is copied, as others use it meanwhile.
        metrics: of the server.
    """

    def __init__(self, model: Any, processor: Any, metrics: Metrics) -> None:
        self._model = model
        self._tokenizer = copy.deepcopy(processor.tokenizer)
        self._metrics = metrics
        ends = model.generation_config.eos_token_id
        several = ends if isinstance(ends, list) else [ends]
        self._ends = frozenset(end for end in several if end is not None)
        pad = self._tokenizer.pad_token_id
        self._pad = pad if pad is not None else min(self._ends, default=0)

    def answer(self, jobs: Sequence[Job]) -> None:
        """Answer jobs of one group.

        Raises: Exception: whatever the model raises; jobs told nothing may be tried again.
        """
        prompts = [job.prompt for job in jobs]
        first = jobs[0]
        inputs = join(prompts, self._pad)
        answers = [Answer(self._decode, self._ends, job.prompt.most, job.stops) for job in jobs]
        with ExitStack() as stack:
            run = None
            if first.prompt.method is not None:
                run = stack.enter_context(sparsify(self._model, first.prompt.method))
                if first.prompt.rating is not None:
                    stack.enter_context(run.rating(first.prompt.rating))
            stack.enter_context(torch.inference_mode())
            watch = Watch(jobs, answers, run, self._metrics)
            options = self._read_sampling(first, stack)
            for job in jobs:
                job.tell(Started())
            self._model.generate(
                **inputs,
                **options,
                max_new_tokens=max(prompt.most for prompt in prompts),
                num_beams=1,
                pad_token_id=self._pad,
                stopping_criteria=StoppingCriteriaList([watch]),
            )

    def _read_sampling(self, job: Job, stack: ExitStack) -> dict[str, Any]:
        """Return how generate() draws; the generator is seeded until the stack ends."""
        sampling = job.sampling
        if sampling.temperature == 0:
            return {"do_sample": False}
        device = self._model.device
        devices = [device] if device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices))
        torch.manual_seed(sampling.seed)
        return {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
        }

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))


def list_costs(jobs: Sequence[Job], run: Run | None) -> list[Cost]:
    """Return what was pruned of each row of the prefill that has just run."""
    if run is None:
        visual = [job.prompt.visual_tokens for job in jobs]
        return [Cost(count, float(count), 1.0) for count in visual]
    return [_as_cost(run.stats.take_row(row)) for row in range(len(jobs))]


def _as_cost(stats: Stats) -> Cost:
    share = stats.prefill_flops / stats.dense_prefill_flops
    return Cost(stats.visual_tokens[0], stats.mean_visual_tokens, share)
