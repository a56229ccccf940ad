"""The chance that a random draw keeps enough evidence equals what many draws show."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sparsight.evaluate.proof import (
    chance_of_all,
    grid_keeps_enough,
    needed_tokens,
    random_proof,
)
from sparsight.evaluate.scenes import SUITES, Box, Question, Turn, load_suite

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import random_proof as benchmark

SUITE = load_suite(SUITES["scenes-2"])


def draws(groups, total, kept, times=4000):
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(times):
        chosen = set(rng.permutation(total)[:kept].tolist())
        hits += all(chosen & group for group in groups)
    return hits / times


@pytest.mark.parametrize(
    "groups",
    [
        [],
        [{3}],
        [{1, 2, 3, 4}],
        [{1, 2, 3}, {3, 4}, {5, 6, 7, 8}],
        [{1, 2}, {1, 2}],
        [{9, 10, 11}, {10, 11, 12}, {11, 12, 13}, {20, 21}],
    ],
)
@pytest.mark.parametrize("kept", [4, 12, 40])
def test_the_chance_equals_that_of_many_draws(groups, kept):
    groups = [frozenset(group) for group in groups]
    want = draws(groups, 40, kept)
    assert chance_of_all(groups, 40, kept) == pytest.approx(want, abs=0.03)


def question(family, *boxes, answer="x", frames=0):
    images = ("one.webp",) * (1 if frames else len(boxes))
    return Question("id", family, "", images, frames, (Turn("?", answer, boxes),))


PAIR = (Box(0, 0, 14, 14), Box(28, 0, 42, 14))  # a patch each


def test_what_is_enough_depends_on_the_family():
    ninth = 64 / 576
    both = ninth * 63 / 575
    assert random_proof(question("relation", PAIR)) == pytest.approx(both)
    assert random_proof(question("counting", PAIR)) == pytest.approx(both)
    assert random_proof(question("existence", PAIR)) == pytest.approx(2 * ninth - both)
    assert random_proof(question("existence", (), answer="no")) == 1
    assert random_proof(question("place", PAIR[:1]), budget=576) == 1


def test_several_images_keep_a_share_of_all_tokens():
    several = question("multi-image", (), PAIR[:1], ())
    assert needed_tokens(several) == [{576}]
    assert random_proof(several) == pytest.approx(1 / 9)


def test_clips_need_a_frame_or_one_of_each_half():
    box = (Box(0, 0, 14, 14),)
    shown = ((), box, (), (), (), (), box, ())
    one = question("clip", *shown, frames=8)
    assert needed_tokens(one) == [{144, 6 * 144}]
    moving = replace(one, turns=(replace(one.turns[0], answer="left"),))
    assert needed_tokens(moving) == [{144}, {6 * 144}]
    assert random_proof(moving) == pytest.approx(1 / 81, rel=0.02)


def test_later_turns_count():
    two = replace(
        question("two-turn", PAIR), turns=(Turn("?", "x", (PAIR,)), Turn("?", "x", ((),)))
    )
    assert random_proof(two) == 1


def test_an_even_grid_keeps_the_middle_of_each_cell():
    """In 64 cells of 3 x 3 patches the middle one is kept, and its neighbours are not."""
    at = [Box(14 * x, 14 * y, 14 * x + 14, 14 * y + 14) for x in range(3) for y in range(3)]
    kept = [box for box in at if grid_keeps_enough(question("place", (box,)))]
    assert kept == [Box(14, 14, 28, 28)]


@pytest.mark.parametrize("name", ["scenes-2", "scenes-2-dev"])
def test_half_of_the_suite_is_out_of_chance(name):
    chances = [random_proof(question) for question in load_suite(SUITES[name])]
    assert np.mean(np.array(chances) < 0.5) >= 0.5
    assert np.mean(chances) < 0.5


def test_no_reading_is_left_to_chance():
    assert max(random_proof(q) for q in SUITE if q.family == "reading") < 0.4


def test_the_benchmark_prints_every_part():
    lines = benchmark.proof_table(SUITE).splitlines()
    parts = {(question.family, question.split) for question in SUITE}
    assert len(lines) == len(parts) + 3
    assert lines[-1].startswith("| all |  | 436 | ")
