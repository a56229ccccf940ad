"""Scores, retentions and means of benchmarks, from answers made by hand."""

import numpy as np
import pytest

from sparsight.evaluate.tasks import TASKS
from sparsight.evaluate.tasks.lines import Reply
from sparsight.evaluate.tasks.results import compute_task_results, mark_all, resample

KEYS = ("dense", "m@8")


def make(key, id, prediction, target="red", *, part="all", group=None):
    return Reply(
        run="r",
        configuration=key,
        id=str(id),
        part=part,
        group=str(id) if group is None else group,
        question="q",
        target=target,
        prediction=prediction,
        prompt="p",
        visual_tokens=10,
        mean_visual_tokens=10.0 if key == "dense" else 4.0,
        mean_visual_tokens_authors=5.0,
        prefill_flops=100 if key == "dense" else 50,
        dense_prefill_flops=100,
        seconds=1.0,
    )


def answer(key, right, count=20):
    """Answers of which the first ones are right."""
    return [make(key, n, "red" if n < right else "blue") for n in range(count)]


def compute(replies, verdict=lambda task, reply: None, names=("gqa",), keys=KEYS):
    """Results of replies, which are the same for all benchmarks."""
    by_pair = {reply.pair: reply for reply in replies}
    ids = sorted({reply.id for reply in replies})
    return compute_task_results(
        [TASKS[name] for name in names],
        keys,
        dict.fromkeys(names, by_pair),
        asked=dict.fromkeys(names, ids),
        verdict=verdict,
        seed=0,
    )


def test_retention_is_of_the_dense_score():
    dense, sparse = compute(answer("dense", 16) + answer("m@8", 12))
    assert dense["tasks"]["gqa"]["score"] == 80
    assert sparse["tasks"]["gqa"]["retention"] == pytest.approx(0.75)
    low, high = sparse["tasks"]["gqa"]["interval"]
    assert 0.4 < low < 0.75 < high <= 1
    assert dense["tasks"]["gqa"]["interval"] == [1, 1]
    assert sparse["cost"]["flops_share"] == 0.5
    assert sparse["cost"]["mean_visual_tokens"] == 4


def test_answers_are_compared_question_by_question():
    # the same questions are wrong in both, so there is nothing that could vary
    dense = answer("dense", 10)
    same = [make("m@8", reply.id, reply.prediction) for reply in reversed(dense)]
    (_, sparse) = compute(dense + same)
    assert sparse["tasks"]["gqa"]["interval"] == [1, 1]
    other = [make("m@8", n, "blue" if n < 10 else "red") for n in range(20)]
    (_, sparse) = compute(dense + other)
    low, high = sparse["tasks"]["gqa"]["interval"]
    assert low < 0.7
    assert high > 1.4


def test_resampling_keeps_groups_whole():
    task = TASKS["mme"]
    replies = [
        make(key, f"{n}#{turn}", "yes" if n % 2 else "no", "yes", part="color", group=str(n))
        for key in KEYS
        for n in range(8)
        for turn in (1, 2)
    ]
    own = mark_all(task, replies[16:], lambda *_: None)
    scores, dense = resample(task, own, own, seed=1)
    assert np.array_equal(scores, dense)
    # both questions of an image are alike, so accuracy and images with no wrong answer are equal
    assert set(np.round(scores / 25, 6)) <= set(range(9))
    assert own.sums["color"].shape == (8, 4)


def test_an_incomplete_benchmark_is_left_out():
    replies = answer("dense", 16) + answer("m@8", 12)[:-1]
    dense, sparse = compute(replies)
    assert sparse["tasks"] == {}
    assert sparse["incomplete"] == {"gqa": 19}
    assert dense["incomplete"] == {}
    assert sparse["means"] == {}


def test_without_the_dense_model_there_is_no_retention():
    (row,) = compute(answer("m@8", 12), keys=("m@8",))
    assert row["tasks"]["gqa"]["score"] == 60
    assert row["tasks"]["gqa"]["retention"] is row["tasks"]["gqa"]["interval"] is None


def test_means_are_with_and_without_judged_sets():
    def judge(task, reply):
        good = reply.configuration == "dense"
        if task.name == "mmvet":
            return "1.0" if good else "0.5"
        return f'{{"pred": "{"yes" if good or reply.id < "2" else "no"}", "score": 3}}'

    names = ("gqa", "mmvet", "textvqa-plain", "msvd")
    replies = answer("dense", 10) + answer("m@8", 9)
    sparse = compute(replies, judge, names)[1]
    means = sparse["means"]
    assert means["images"]["tasks"] == ["gqa", "mmvet"]
    assert means["images"]["retention"] == pytest.approx((0.9 + 0.5) / 2)
    assert means["images_unjudged"]["retention"] == pytest.approx(0.9)
    assert means["videos"]["tasks"] == ["msvd"]
    assert sparse["tasks"]["msvd"]["judge_score"] == 3


def test_unjudged_answers_count_neither_way():
    def judge(task, reply):
        return {"0": "?", "1": None}.get(reply.id, "0.5")

    dense, sparse = compute(answer("dense", 0, 4) + answer("m@8", 0, 4), judge, ("mmvet",))
    assert dense["tasks"]["mmvet"]["unjudged"] == 2
    assert dense["tasks"]["mmvet"]["score"] == 50
    assert sparse["tasks"]["mmvet"]["retention"] == 1
    (dense, _) = compute(answer("dense", 0, 4) + answer("m@8", 0, 4), names=("mmvet",))
    assert dense["tasks"]["mmvet"] == {"score": None, "n": 4, "unjudged": 4}
