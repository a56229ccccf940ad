"""From answers to results: scores, what is retained of the dense model's, intervals, costs, evidence."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from sparsight.evaluate.record import Recall, Record
from sparsight.evaluate.scenes import Question
from sparsight.evaluate.scoring import RESAMPLES, interval, marks_of
from sparsight.evaluate.settings import DENSE, Configuration, Settings

Refusals = dict[str, dict[str, str]]  # by configuration and family, the first reason
Records = Mapping[tuple[str, str], Record]
TWO_TURN = "two-turn"


def results(
    settings: Settings, asked: Sequence[Question], records: Records, refusals: Refusals
) -> dict[str, Any]:
    """Compute the results of all configurations.

    Args:
        settings: of the evaluation.
        asked: questions of this run.
        records: answers, of this run and perhaps more.
        refusals: what was refused.
    Returns: one JSON document; shares are in 0..1, differences in points of 100.
    """
    parts: dict[str, list[Question]] = {}
    for family in settings.families:
        own = sorted(
            (question for question in asked if question.family == family), key=lambda q: q.id
        )
        parts |= {family: own} if own else {}
    return {
        "resamples": RESAMPLES,
        "configurations": [
            _configuration(one, parts, records, refusals.get(one.key, {}), settings.seed)
            for one in settings.configurations
        ],
    }


def _configuration(
    one: Configuration,
    parts: Mapping[str, list[Question]],
    records: Records,
    refused: dict[str, str],
    seed: int,
) -> dict[str, Any]:
    answered = {
        family: [records[one.key, question.id] for question in own]
        for family, own in parts.items()
        if all((one.key, question.id) in records for question in own)
    }
    dense = {
        family: [records[DENSE.key, question.id] for question in parts[family]]
        for family in answered
        if all((DENSE.key, question.id) in records for question in parts[family])
    }
    rows = [record for own in answered.values() for record in own]
    return {
        "name": one.name,
        "key": one.key,
        "budget": one.budget,
        "settings": None if one.method is None else repr(one.method),
        "refused": refused,
        "n": len(rows),
        "overall": _overall(answered, dense, seed),
        "families": {
            family: _family(own, dense.get(family), seed) for family, own in answered.items()
        },
        "cost": _cost(rows),
        "evidence": _evidence(rows, -1),
        "hard_for_downscaling": _hard(one, parts, records),
    }


def _overall(
    answered: Mapping[str, list[Record]], dense: Mapping[str, list[Record]], seed: int
) -> dict[str, Any] | None:
    """Return the mean over families; beside the dense model's over the same families."""
    if not answered:
        return None
    marks = {family: marks_of(own) for family, own in answered.items()}
    score = statistics.fmean(mark.score for mark in marks.values())
    if not set(answered) <= set(dense):
        return {"score": score} | _beside(score, None, None)
    pairs = [(mark, marks_of(dense[family])) for family, mark in marks.items()]
    return {"score": score} | _beside(
        score, statistics.fmean(mark.score for _, mark in pairs), interval(pairs, seed)
    )


def _family(own: list[Record], dense: list[Record] | None, seed: int) -> dict[str, Any]:
    mark = marks_of(own)
    found: dict[str, Any] = {"score": mark.score, **mark.as_dict()}
    if dense is None:
        found |= _beside(mark.score, None, None)
    else:
        pair = mark, marks_of(dense)
        found |= _beside(mark.score, pair[1].score, interval([pair], seed))
    splits = {
        split: [record for record in own if record.split == split]
        for split in {r.split for r in own}
    }
    found["splits"] = {
        split: {**marks_of(rows).as_dict(), "evidence": _evidence(rows, -1)}
        for split, rows in sorted(splits.items())
    }
    if own[0].family == TWO_TURN:
        found["splits"] = {
            name: {**marks_of(own, turn).as_dict(), "evidence": _evidence(own, turn)}
            for turn, name in enumerate(("first", "second"))
        }
    return found | {"evidence": _evidence(own, -1)}


def _beside(
    score: float, dense: float | None, bounds: tuple[float, float] | None
) -> dict[str, Any]:
    """Compare a score with the dense model's on the same questions."""
    return {
        "dense_score": dense,
        "retention": score / dense if dense else None,
        "difference_points": None if dense is None else 100 * (score - dense),
        "interval_points": None if bounds is None else list(bounds),
    }


def _cost(rows: Sequence[Record]) -> dict[str, Any] | None:
    """Return means per question; still images alone beside everything, as budgets are meant for them."""
    if not rows:
        return None
    least = min(row.visual_tokens for row in rows)
    still = [
        row
        for row in rows
        if row.visual_tokens == least and row.family not in ("multi-image", "clip")
    ]
    flops, dense = (
        sum(row.prefill_flops for row in rows),
        sum(row.dense_prefill_flops for row in rows),
    )
    return {
        "visual_tokens": statistics.fmean(row.visual_tokens for row in rows),
        "mean_visual_tokens": statistics.fmean(row.mean_visual_tokens for row in rows),
        "mean_visual_tokens_one_image": statistics.fmean(row.mean_visual_tokens for row in still)
        if still
        else None,
        "prefill_flops": flops / len(rows),
        "dense_prefill_flops": dense / len(rows),
        "flops_share": flops / dense,
        "seconds_median": statistics.median(row.seconds for row in rows),
    }


def _evidence(rows: Sequence[Record], turn: int) -> dict[str, Any] | None:
    """Return mean recall of evidence at each site and at the last; None without evidence."""
    known = [row for row in rows if row.recall[turn] is not None]
    if not known:
        return None
    sites = sorted({site for row in known for site in row.sites})
    plain = [_at(sites, row.sites, row.recall[turn]) for row in known]
    merged = [_at(sites, row.sites, row.recall_merged[turn]) for row in known]
    return {
        "n": len(known),
        "sites": [
            {"layer": layer, "recall": statistics.fmean(a), "recall_merged": statistics.fmean(b)}
            for layer, a, b in zip(
                sites, zip(*plain, strict=True), zip(*merged, strict=True), strict=True
            )
        ],
        "recall": statistics.fmean(row[-1] for row in plain) if sites else 1.0,
        "recall_merged": statistics.fmean(row[-1] for row in merged) if sites else 1.0,
    }


def _at(layers: Sequence[int], sites: Sequence[int], recall: Recall | None) -> Recall:
    """Return the recall at each of several layers: that of a sample's last site so far, 1 before its first one."""
    found = dict(zip(sites, recall or (1.0,) * len(sites), strict=True))
    return tuple(
        next((found[site] for site in reversed(sites) if site <= layer), 1.0) for layer in layers
    )


def _hard(
    one: Configuration, parts: Mapping[str, list[Question]], records: Records
) -> dict[str, Any] | None:
    """Return the accuracy on questions that a scaled-down image of the same budget gets wrong; None if not marked."""
    own = [question for family in parts.values() for question in family]
    hard = [
        records.get((one.key, q.id)) for q in own if one.budget in (q.hard_for_downscaling or ())
    ]
    known = [record for record in hard if record is not None]
    if not known:
        return None
    return {"n": len(known), "accuracy": sum(record.right[-1] for record in known) / len(known)}
