"""Results on benchmarks: scores, retention with intervals, means, and costs. Pure functions."""

import statistics
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsight.evaluate.scoring import RESAMPLES
from sparsight.evaluate.settings import DENSE
from sparsight.evaluate.tasks.kinds import score_kinds, tally_parts
from sparsight.evaluate.tasks.lines import Reply
from sparsight.evaluate.tasks.task import Sums, Task

AT_ONCE = 4_000_000  # numbers that are resampled together
Verdict = Callable[[Task, Reply], str | None]  # what a judge replied; None where it was not asked


@dataclass(frozen=True)
class Marked:
    """Marks of one configuration on one benchmark.

    Args:
        sums: (groups, K) tallied, by part, groups in the order of their names.
        count: of questions.
        unjudged: answers that no judge has marked.
        kinds: scores by kind of question, as `score_kinds` gives them.
    """

    sums: Mapping[str, Sums]
    count: int
    unjudged: int
    kinds: Mapping[str, Any]

    def total(self, part: str | None = None) -> Sums:
        """Return the sums over groups, (1, parts, K), of all parts or one."""
        parts = [self.sums[part]] if part else list(self.sums.values())
        return np.stack([sums.sum(axis=0) for sums in parts])[None]


def mark_all(task: Task, replies: Sequence[Reply], verdict: Verdict) -> Marked:
    """Return the marks of answers to one benchmark.

    Args:
        task: the benchmark.
        replies: of one configuration.
        verdict: returns what a judge replied.
    """
    marks = []
    for reply in sorted(replies, key=_read_id):
        text = verdict(task, reply) if task.judged else reply.prediction
        marks.append((reply, None if text is None else task.mark(text, reply.target)))
    unjudged = sum(mark is None for _, mark in marks)
    return Marked(tally_parts(task, marks), len(replies), unjudged, score_kinds(task, marks))


def _read_id(reply: Reply) -> str:
    return reply.id


def resample(task: Task, own: Marked, dense: Marked, seed: int) -> tuple[Sums, Sums]:
    """Return scores (S,) of resampled questions: of a configuration, and of the dense model.

    Groups are drawn part by part, the same ones for both.
    """
    draws = np.random.default_rng([seed, zlib.crc32(task.name.encode())])
    totals = []
    for part, sums in own.sums.items():
        both = np.concatenate([sums, dense.sums[part]], axis=1)  # (groups, 2K)
        count = len(both)
        at_once = max(1, AT_ONCE // both.size)
        chunks = []
        for start in range(0, RESAMPLES, at_once):
            drawn = draws.integers(count, size=(min(at_once, RESAMPLES - start), count))
            chunks.append(both[drawn].sum(axis=1))
        totals.append(np.concatenate(chunks))
    stacked = np.stack(totals, axis=1)  # (S, parts, 2K)
    half = stacked.shape[2] // 2
    return task.combine(stacked[..., :half]), task.combine(stacked[..., half:])


def compute_task_results(
    tasks: Sequence[Task],
    keys: Sequence[str],
    replies: Mapping[str, Mapping[tuple[str, str], Reply]],
    *,
    asked: Mapping[str, Sequence[str]],
    verdict: Verdict,
    seed: int,
) -> list[dict[str, Any]]:
    """Return the results of each configuration.

    Args:
        tasks: benchmarks.
        keys: of configurations, in the order of the results.
        replies: by benchmark, configuration and question.
        asked: ids of the questions that count, by benchmark.
        verdict: returns what a judge replied.
        seed: of resampling.
    """
    marked = {
        (task.name, key): found
        for task in tasks
        for key in keys
        if (found := _mark_whole(task, key, replies, asked, verdict)) is not None
    }
    rows = []
    for key in keys:
        own = {task.name: marked[task.name, key] for task in tasks if (task.name, key) in marked}
        ratios: dict[str, tuple[float, Sums]] = {}
        summaries = {}
        for task in tasks:
            if task.name in own:
                dense = marked.get((task.name, DENSE.key))
                summaries[task.name] = _summarise(task, own[task.name], dense, seed, ratios)
        answered = [
            reply
            for name in summaries
            for reply in replies[name].values()
            if reply.configuration == key
        ]
        rows.append(
            {
                "key": key,
                "tasks": summaries,
                "incomplete": _count_incomplete(key, tasks, replies, asked),
                "means": _average(tasks, ratios),
                "cost": _summarise_cost(answered),
            }
        )
    return rows


def _count_incomplete(
    key: str,
    tasks: Sequence[Task],
    replies: Mapping[str, Mapping[tuple[str, str], Reply]],
    asked: Mapping[str, Sequence[str]],
) -> dict[str, int]:
    """Return how many questions were answered, of each benchmark that was answered in part."""
    counts = {}
    for task in tasks:
        count = sum((key, id) in replies[task.name] for id in asked[task.name])
        if 0 < count < len(asked[task.name]):
            counts[task.name] = count
    return counts


def _mark_whole(
    task: Task,
    key: str,
    replies: Mapping[str, Mapping[tuple[str, str], Reply]],
    asked: Mapping[str, Sequence[str]],
    verdict: Verdict,
) -> Marked | None:
    """Return the marks of a configuration that has answered every question, else None."""
    found = [replies[task.name].get((key, id)) for id in asked[task.name]]
    own = [reply for reply in found if reply is not None]
    return mark_all(task, own, verdict) if own and len(own) == len(found) else None


def _summarise(
    task: Task,
    own: Marked,
    dense: Marked | None,
    seed: int,
    ratios: dict[str, tuple[float, Sums]],
) -> dict[str, Any]:
    """Return the results on one benchmark, and put its retention into `ratios`."""
    if own.count == own.unjudged:  # only where a judge was not asked, or never answered well
        return {"score": None, "n": own.count, "unjudged": own.unjudged}
    score = float(task.combine(own.total())[0])
    summary: dict[str, Any] = {"score": score, "n": own.count, "unjudged": own.unjudged}
    if len(own.sums) > 1:
        summary["parts"] = {part: float(task.combine(own.total(part))[0]) for part in own.sums}
    if task.frames:
        _, scores, judged = own.total().sum(axis=1)[0]
        summary["judge_score"] = float(scores / judged)
    summary |= own.kinds
    if dense is None or dense.count == dense.unjudged:
        return summary | _compare(None, None, None)
    dense_score = float(task.combine(dense.total())[0])
    first, second = resample(task, own, dense, seed)
    if not dense_score:
        return summary | _compare(0.0, None, None)
    samples = first / np.where(second == 0, np.nan, second)
    ratios[task.name] = (score / dense_score, samples)
    return summary | _compare(dense_score, score / dense_score, _find_interval(samples))


def _compare(
    dense: float | None, retention: float | None, bounds: list[float] | None
) -> dict[str, Any]:
    return {"dense_score": dense, "retention": retention, "interval": bounds}


def _find_interval(samples: Sums) -> list[float] | None:
    """Return the 2.5th and 97.5th percentile of those samples that are numbers."""
    known = samples[np.isfinite(samples)]
    return [float(value) for value in np.percentile(known, (2.5, 97.5))] if len(known) else None


def _average(
    tasks: Sequence[Task], ratios: Mapping[str, tuple[float, Sums]]
) -> dict[str, dict[str, Any]]:
    """Return mean retentions: of the image sets, of those that need no judge, of the video sets."""
    own = [task for task in tasks if task.name in ratios and not task.extra]
    images = [task for task in own if not task.frames]
    kinds = {
        "images": images,
        "images_unjudged": [task for task in images if not task.judged],
        "videos": [task for task in own if task.frames],
    }
    return {name: _average_kind(chosen, ratios) for name, chosen in kinds.items() if chosen}


def _average_kind(
    tasks: Sequence[Task], ratios: Mapping[str, tuple[float, Sums]]
) -> dict[str, Any]:
    samples = np.mean([ratios[task.name][1] for task in tasks], axis=0)
    return {
        "retention": statistics.fmean(ratios[task.name][0] for task in tasks),
        "interval": _find_interval(samples),
        "tasks": [task.name for task in tasks],
    }


def _summarise_cost(replies: Sequence[Reply]) -> dict[str, Any] | None:
    """Return mean costs per question."""
    if not replies:
        return None
    flops = sum(reply.prefill_flops for reply in replies)
    return {
        "visual_tokens": statistics.fmean(reply.visual_tokens for reply in replies),
        "mean_visual_tokens": statistics.fmean(reply.mean_visual_tokens for reply in replies),
        "mean_visual_tokens_authors": statistics.fmean(
            reply.mean_visual_tokens_authors for reply in replies
        ),
        "flops_share": flops / sum(reply.dense_prefill_flops for reply in replies),
        "seconds_median": statistics.median(reply.seconds for reply in replies),
    }
