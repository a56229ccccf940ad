"""Results of an evaluation: scores beside the dense model's, intervals, costs, evidence."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sparsight.evaluate.record import Recall, Record
from sparsight.evaluate.scenes import Question
from sparsight.evaluate.scoring import RESAMPLES, bootstrap_interval, collect_marks
from sparsight.evaluate.settings import DENSE, Configuration, Settings

Refusals = dict[str, dict[str, str]]  # by configuration and family, the first reason
Records = Mapping[tuple[str, str], Record]  # by configuration and question
TWO_TURN = "two-turn"
# configurations that others are compared with, beside the dense model: an even grid, and the
# recommended method
UNIFORM, RECOMMENDED = "uniform", "sparsight"
SEVERAL_IMAGES = ("multi-image", "clip")


def compute_results(
    settings: Settings, asked: Sequence[Question], records: Records, refusals: Refusals
) -> dict[str, Any]:
    """Return the results of all configurations as one JSON document.

    Shares are in 0..1, differences in points of 100.

    Args:
        settings: of the evaluation.
        asked: questions of this run.
        records: answers, of this run and perhaps of others.
        refusals: what was refused.
    """
    questions: dict[str, list[str]] = {}
    for family in settings.families:
        ids = sorted(question.id for question in asked if question.family == family)
        if ids:
            questions[family] = ids
    return {
        "resamples": RESAMPLES,
        "configurations": [
            _summarise(one, questions, records, refusals.get(one.key, {}), settings)
            for one in settings.configurations
        ],
    }


def _summarise(
    configuration: Configuration,
    questions: Mapping[str, list[str]],
    records: Records,
    refused: dict[str, str],
    settings: Settings,
) -> dict[str, Any]:
    """Return the results of one configuration over the families that it answered whole."""
    answered = dict(_select_answered(configuration, questions, records))
    dense = dict(_select_answered(DENSE, {name: questions[name] for name in answered}, records))
    families = {}
    for family, rows in answered.items():
        families[family] = _summarise_family(rows, dense.get(family), settings.seed)
    all_rows = [record for rows in answered.values() for record in rows]
    method = configuration.method
    compare = partial(
        _compare_with,
        configuration=configuration,
        answered=answered,
        questions=questions,
        records=records,
        seed=settings.seed,
    )
    return {
        "name": configuration.name,
        "key": configuration.key,
        "budget": configuration.budget,
        "settings": None if method is None else repr(method),
        "refused": refused,
        "n": len(all_rows),
        "overall": _summarise_overall(answered, dense, settings.seed),
        "over_uniform": compare(UNIFORM),
        "over_recommended": compare(RECOMMENDED),
        "families": families,
        "cost": _summarise_cost(all_rows, timed=not settings.share_encoding),
        "evidence": _summarise_evidence(all_rows, -1),
    }


def _select_answered(
    configuration: Configuration, questions: Mapping[str, list[str]], records: Records
) -> Iterator[tuple[str, list[Record]]]:
    """Yield each family of which every question was answered, with its records."""
    for family, ids in questions.items():
        rows = [records.get((configuration.key, question)) for question in ids]
        answered = [row for row in rows if row is not None]
        if len(answered) == len(ids):
            yield family, answered


def _summarise_overall(
    answered: Mapping[str, list[Record]], dense: Mapping[str, list[Record]], seed: int
) -> dict[str, Any] | None:
    """Return the mean score of the families, and the dense model's mean score of the same ones."""
    if not answered:
        return None
    marks = {family: collect_marks(rows) for family, rows in answered.items()}
    score = statistics.fmean(mark.score for mark in marks.values())
    if not set(answered) <= set(dense):
        return {"score": score} | _compare(score, None, None)
    pairs = [(mark, collect_marks(dense[family])) for family, mark in marks.items()]
    dense_score = statistics.fmean(mark.score for _, mark in pairs)
    return {"score": score} | _compare(score, dense_score, bootstrap_interval(pairs, seed))


def _compare_with(
    name: str,
    *,
    configuration: Configuration,
    answered: Mapping[str, list[Record]],
    questions: Mapping[str, list[str]],
    records: Records,
    seed: int,
) -> dict[str, Any] | None:
    """Return by how much a method's mean score beats that of another one at the same budget.

    Args: name: of the other one's configuration.
    Returns: None for the dense model and for the other one itself, and where that was not asked the
        same.
    """
    if configuration.method is None or configuration.name == name:
        return None
    asked = {family: questions[family] for family in answered}
    other = dict(_select_answered(replace(configuration, name=name), asked, records))
    if not answered or set(other) != set(answered):
        return None
    pairs = [(collect_marks(answered[family]), collect_marks(other[family])) for family in answered]
    difference = statistics.fmean(own.score - its.score for own, its in pairs)
    bounds = bootstrap_interval(pairs, seed)
    return {"difference_points": 100 * difference, "interval_points": list(bounds)}


def _summarise_family(rows: list[Record], dense: list[Record] | None, seed: int) -> dict[str, Any]:
    marks = collect_marks(rows)
    summary: dict[str, Any] = {"score": marks.score, **marks.as_dict()}
    if dense is None:
        summary |= _compare(marks.score, None, None)
    else:
        dense_marks = collect_marks(dense)
        bounds = bootstrap_interval([(marks, dense_marks)], seed)
        summary |= _compare(marks.score, dense_marks.score, bounds)
    splits = {}
    if rows[0].family == TWO_TURN:  # the parts of this family are its turns
        for turn, name in enumerate(("first", "second")):
            splits[name] = _summarise_split(rows, turn)
    else:
        for name in sorted({record.split for record in rows}):
            splits[name] = _summarise_split([row for row in rows if row.split == name], -1)
    return summary | {"splits": splits, "evidence": _summarise_evidence(rows, -1)}


def _summarise_split(rows: list[Record], turn: int) -> dict[str, Any]:
    return {
        **collect_marks(rows, turn).as_dict(),
        "evidence": _summarise_evidence(rows, turn),
    }


def _compare(
    score: float, dense: float | None, bounds: tuple[float, float] | None
) -> dict[str, Any]:
    """Return how a score compares with the dense model's score on the same questions."""
    return {
        "dense_score": dense,
        "retention": score / dense if dense else None,
        "difference_points": None if dense is None else 100 * (score - dense),
        "interval_points": None if bounds is None else list(bounds),
    }


def _summarise_cost(rows: Sequence[Record], *, timed: bool) -> dict[str, Any] | None:
    """Return mean costs per question; no seconds where images were encoded once for all.

    `mean_visual_tokens_one_image` averages over the questions with one still image, the case that
    a budget is given for.
    """
    if not rows:
        return None
    flops = sum(row.prefill_flops for row in rows)
    dense_flops = sum(row.dense_prefill_flops for row in rows)
    return {
        "visual_tokens": statistics.fmean(row.visual_tokens for row in rows),
        "mean_visual_tokens": statistics.fmean(row.mean_visual_tokens for row in rows),
        "mean_visual_tokens_one_image": _average_one_image(rows),
        "prefill_flops": flops / len(rows),
        "dense_prefill_flops": dense_flops / len(rows),
        "flops_share": flops / dense_flops,
        "seconds_median": statistics.median(row.seconds for row in rows) if timed else None,
    }


def _average_one_image(rows: Sequence[Record]) -> float | None:
    least = min(row.visual_tokens for row in rows)
    still = [
        row.mean_visual_tokens
        for row in rows
        if row.visual_tokens == least and row.family not in SEVERAL_IMAGES
    ]
    return statistics.fmean(still) if still else None


def _summarise_evidence(rows: Sequence[Record], turn: int) -> dict[str, Any] | None:
    """Return the mean recall of evidence at each site and at the last one; None without evidence.

    Args:
        rows: records, perhaps of different sites.
        turn: whose evidence is meant.
    """
    rows = [row for row in rows if row.recall[turn] is not None]
    if not rows:
        return None
    layers = sorted({site for row in rows for site in row.sites})
    recall = _average([_spread(layers, row.sites, row.recall[turn]) for row in rows])
    merged = _average([_spread(layers, row.sites, row.recall_merged[turn]) for row in rows])
    return {
        "n": len(rows),
        "sites": [
            {"layer": layer, "recall": recall[index], "recall_merged": merged[index]}
            for index, layer in enumerate(layers)
        ],
        "recall": recall[-1] if layers else 1.0,
        "recall_merged": merged[-1] if layers else 1.0,
    }


def _average(recalls: Sequence[Recall]) -> Recall:
    """Return the mean over records at each layer."""
    return tuple(map(statistics.fmean, zip(*recalls, strict=True)))


def _spread(layers: Sequence[int], sites: Sequence[int], recall: Recall | None) -> Recall:
    """Return the recall of one sample behind each of several layers.

    Args:
        layers: ascending.
        sites: of the sample, ascending.
        recall: of the sample at each of its sites.

    Returns:
        At each layer the recall of the sample's last site up to it, 1 before its first site.
    """
    recall_at = dict(zip(sites, recall or (1.0,) * len(sites), strict=True))
    current = 1.0
    spread = []
    for layer in layers:  # holds every site of the sample
        current = recall_at.get(layer, current)
        spread.append(current)
    return tuple(spread)
