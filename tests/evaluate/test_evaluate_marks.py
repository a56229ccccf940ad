"""Evaluation without a model: marks, F1, intervals, evidence, swapped images, image budgets."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sparsight import SparseVLM
from sparsight.counts.layout import Block, grids_layout, layout_of
from sparsight.errors import InputError
from sparsight.evaluate import (
    Configuration,
    Record,
    Settings,
    find_evidence_tokens,
    measure_recall,
)
from sparsight.evaluate.evidence import shows_whole_images
from sparsight.evaluate.results import _summarise_evidence
from sparsight.evaluate.scenes import Box, load_suite
from sparsight.evaluate.scoring import Marks, bootstrap_interval, collect_marks, normalise
from sparsight.evaluate.settings import choose_cases
from sparsight.methods import Random, Restore
from sparsight.sequence.trace import SiteTrace


def record(key, question, right, answer="yes", expected="yes"):
    none = (None,)
    return Record(
        key,
        question,
        "existence",
        "",
        (answer,),
        (expected,),
        (right,),
        9,
        9.0,
        1,
        1,
        0.1,
        (),
        none,
        none,
    )


def test_compares_answers_without_case_and_period():
    assert normalise(" Top Left. ") == "top left"
    assert normalise("3..") == "3."


def test_f1_equals_its_definition():
    rng = np.random.default_rng(0)
    said, truth = rng.random(40) < 0.6, rng.random(40) < 0.5
    both = sum(said & truth)
    precise = sum(said)
    found = sum(truth)
    precision, recall = both / precise, both / found
    rows = [
        record("dense", str(i), bool(a == b), "Yes." if a else "no", "yes" if b else "no")
        for i, (a, b) in enumerate(zip(said, truth, strict=True))
    ]
    marks = collect_marks(rows)
    assert marks.score == pytest.approx(2 * precision * recall / (precision + recall))
    assert marks.as_dict()["yes_share"] == pytest.approx(said.mean())
    assert collect_marks([replace(row, family="place") for row in rows]).score == pytest.approx(
        (said == truth).mean()
    )


def marks(right):
    right = np.array(right, dtype=bool)
    return Marks(right, np.zeros_like(right), np.zeros_like(right), binary=False)


def test_equal_answers_differ_by_nothing():
    same = marks([1, 0, 1, 1])
    assert bootstrap_interval([(same, same), (marks([0, 1]), marks([0, 1]))]) == (0.0, 0.0)


def test_the_interval_covers_the_difference():
    rng = np.random.default_rng(1)
    dense, sparse = marks(rng.random(300) < 0.8), marks(rng.random(300) < 0.6)
    low, high = bootstrap_interval([(sparse, dense)])
    difference = 100 * (sparse.score - dense.score)
    assert low < difference < high < 0
    spread = 100 * (sparse.right.astype(float) - dense.right.astype(float)).std() / 300**0.5
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    assert bootstrap_interval([(sparse, dense)]) == (low, high)
    assert bootstrap_interval([(sparse, dense)], seed=1) != (low, high)


def evidence_by_loops(boxes, size, rows, columns):
    found = []
    wide = size[0] / columns
    high = size[1] / rows
    for row in range(rows):
        for column in range(columns):
            shares = [0.0]
            for box in boxes:
                width = min(box.right, (column + 1) * wide) - max(box.left, column * wide)
                height = min(box.bottom, (row + 1) * high) - max(box.top, row * high)
                smaller = min(wide * high, (box.right - box.left) * (box.bottom - box.top))
                shares.append(max(width, 0) * max(height, 0) / smaller)
            found.append(max(shares) >= 0.25 - 1e-12)
    return found


@pytest.mark.parametrize("seed", range(6))
def test_evidence_tokens_equal_a_loop(seed):
    rng = np.random.default_rng(seed)
    sizes, boxes = [(336, 336), (168, 120), (50, 40)], []
    for width, height in sizes:
        corners = rng.integers(0, (width - 9, height - 9), size=(seed % 4, 2))
        boxes.append(
            [
                Box(int(x), int(y), int(x) + int(rng.integers(2, 9)) * 3, int(y) + 9)
                for x, y in corners
            ]
        )
    want = [
        mark
        for own, size in zip(boxes, sizes, strict=True)
        for mark in evidence_by_loops(own, size, 6, 8)
    ]
    assert find_evidence_tokens(boxes, sizes, grids_layout([(6, 8)] * 3)).tolist() == want


def test_a_quarter_of_a_patch_is_enough():
    layout = grids_layout([(2, 2)])
    assert find_evidence_tokens([[Box(0, 0, 7, 7)]], [(28, 28)], layout).tolist() == [
        True,
        False,
        False,
        False,
    ]
    row = grids_layout([(1, 5)])
    assert not find_evidence_tokens([[Box(0, 0, 70, 3)]], [(70, 14)], row).any()
    # what is smaller than a patch is shown by the patch that holds a quarter of it
    assert find_evidence_tokens([[Box(6, 2, 18, 8)]], [(28, 28)], layout).tolist() == [1, 1, 0, 0]
    assert find_evidence_tokens([[Box(4, 2, 15, 8)]], [(28, 28)], layout).tolist() == [1, 0, 0, 0]


def test_evidence_of_an_overview_and_a_fine_grid_and_of_none():
    layout = layout_of((Block(2, 2), Block(1, 2, row_end=1, part=1), Block(1, 1, after=1, image=1)))
    boxes = [[Box(0, 0, 14, 28)], []]
    assert find_evidence_tokens(boxes, [(28, 28)] * 2, layout).tolist() == [
        1,
        0,
        1,
        0,
        1,
        0,
        0,
        0,
        0,
    ]
    assert shows_whole_images(layout, 2)
    assert not shows_whole_images(layout, 1), "tiles"
    assert not shows_whole_images(layout_of((Block(1, 1), Block(1, 1, frame=1))), 1)
    assert not shows_whole_images(layout_of((Block(0, 0, before=3),)), 1)
    assert not shows_whole_images(None, 1)


def site(layer, present, keep, *, centres=(), pool=(), labels=()):
    rows = (torch.tensor(row, dtype=torch.int64) for row in (present, keep, centres, pool, labels))
    return SiteTrace(layer, *rows, None)


def test_recall_follows_tokens_through_sites():
    evidence = torch.tensor([1, 1, 1, 1, 0, 0], dtype=torch.bool)
    first = site(1, range(6), [0, 4], centres=[2, 5], pool=[1, 2, 5], labels=[0, 0, 1])
    second = site(2, [0, 4, 2, 5], [2])
    assert measure_recall([first, second], evidence) == ((0.5, 0.25), (0.75, 0.5))
    assert measure_recall([], evidence) == ((), ())
    assert measure_recall([first], torch.zeros(6, dtype=torch.bool)) == (None, None)


def test_swapped_images_are_others():
    settings = Settings(control="swapped", limit=3)
    cases = choose_cases(load_suite(), settings)
    assert len(cases) == 20 * 3
    for case in cases:
        assert case.shown.family == case.question.family
        assert case.shown.split == case.question.split
        assert not set(case.shown.images) & set(case.question.images)
    assert cases == choose_cases(load_suite(), settings)
    with pytest.raises(InputError, match="no question beside it"):
        choose_cases(load_suite()[:1], settings)


def test_budgets_of_several_images_are_fractions():
    of_family = {question.family: question for question in load_suite()}
    still, several = of_family["place"], of_family["multi-image"]
    clip = of_family["clip"]
    sparse = Configuration("sparsevlm", SparseVLM(retain=192))
    assert sparse.adapt_method(still, 576, 0).retain == 192
    assert (
        sparse.adapt_method(several, 576, 0).retain
        == sparse.adapt_method(clip, 576, 0).retain
        == 1 / 3
    )
    assert (
        Configuration("sparsevlm", SparseVLM(retain=0.5)).adapt_method(clip, 576, 0).retain == 0.5
    )
    seeds = {
        Configuration("random", Random(retain=12)).adapt_method(question, 36, seed).seed
        for question in (still, several, clip)
        for seed in (0, 1)
    }
    assert len(seeds) == 6
    built = Configuration("restore", Restore(retain=12, base=Random()))
    drawn = [built.adapt_method(still, 36, seed).base.seed for seed in (0, 1)]
    assert set(drawn) < seeds
    assert len(set(drawn)) == 2


def test_evidence_of_samples_with_unlike_sites():
    """A budget near the number of visual tokens leaves sites out where nothing is dropped."""
    rows = [
        SimpleNamespace(sites=sites, recall=(recall,), recall_merged=(recall,))
        for sites, recall in (((3, 7), (0.5, 0.25)), ((7,), (0.75,)), ((3,), (0.1,)), ((), ()))
    ]
    found = _summarise_evidence(rows, -1)
    assert [(site["layer"], site["recall"]) for site in found["sites"]] == [
        (3, pytest.approx((0.5 + 1 + 0.1 + 1) / 4)),
        (7, pytest.approx((0.25 + 0.75 + 0.1 + 1) / 4)),
    ]
    assert found["recall"] == pytest.approx(2.1 / 4)
