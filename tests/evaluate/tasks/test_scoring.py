"""Golden cases of the benchmarks' scorers, from the rules of their evaluation scripts."""

import numpy as np
import pytest

from sparsight.evaluate.tasks import scoring
from sparsight.evaluate.tasks.vqa import mark_vqa, normalise


@pytest.mark.parametrize(
    ("answer", "right"),
    [("red", True), ("Red.", True), ("red..", True), ("red!", False), ("a red", False)],
)
def test_gqa(answer, right):
    assert scoring.mark_gqa(answer, "red") is right


@pytest.mark.parametrize(
    ("answer", "says_yes"),
    [
        ("Yes", True),
        ("Yes.", True),
        ("No", False),
        ("no, there is none", False),
        ("There is not one.", False),
        ("Not sure", True),  # the word list has no Not
        ("NO", True),
        ("", True),
        ("I see. No", True),  # the first sentence counts
        ("Maybe", True),
    ],
)
def test_pope(answer, says_yes):
    assert scoring.mark_pope(answer, "no") == [says_yes, False]


@pytest.mark.parametrize(
    ("answer", "right"),
    [("Yes", True), ("yes, it is", True), ("no", False), ("It is: yes", False), ("a yes", False)],
)
def test_mme(answer, right):
    assert scoring.mark_mme(answer, "yes") is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("B", True),
        ("B. green", True),
        ("The answer is B.", True),
        ("The answer is B. The answer is A.", False),
        ("b", False),
        ("B.", False),
        ("AB", False),
        ("", False),
        ("green", False),
    ],
)
def test_scienceqa(answer, right):
    assert scoring.mark_scienceqa(answer, {"answer": "B", "choices": 2}) is right


def test_scienceqa_refuses_letters_beyond_the_choices():
    assert not scoring.mark_scienceqa("C", {"answer": "C", "choices": 2})
    assert scoring.mark_scienceqa("C", {"answer": "C", "choices": 3})


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(B) green", "B"),
        ("The answer is B", "B"),
        ("green", "B"),
        ("it is Green", "B"),
        ("red or green", None),
        ("E", None),
        ("", None),
    ],
)
def test_mmbench(answer, letter):
    assert scoring.choose_option(answer, {"A": "red", "B": "green"}) == letter


def test_seed_strips_nothing():
    assert scoring.mark_exactly("A", "A")
    assert not scoring.mark_exactly("A.", "A")


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The Dog", "dog"),
        ("two dogs", "2 dogs"),
        ("none", "0"),
        ("ten, a", "10"),
        ("dont", "don't"),
        ("couldn'tve", "couldn't've"),
        ("1,000", "1000"),
        ("3.5 m.", "3.5 m"),
        ("left-right", "left right"),
        ("left - right", "left right"),
        ("Coca/Cola!", "coca cola"),
        ("dog's", "dog 's"),
        ("let's", "let 's"),
        ("somebody'd", "somebodyd"),
    ],
)
def test_vqa_answers_are_normalised(text, plain):
    assert normalise(text) == plain


@pytest.mark.parametrize(
    ("same", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]
)
def test_vqa_accuracy(same, score):
    # one person of ten alone: the nine others see one match each, 9 x 1/3 / 10
    target = ["red"] * same + [f"other {number}" for number in range(10 - same)]
    assert mark_vqa("Red.", target) == pytest.approx(score)


def test_circular_questions_are_right_together():
    assert scoring.tally_circle([True, True]) == (1, 1)
    assert scoring.tally_circle([True, False]) == (0, 1)


def sums(*parts):
    return np.array([parts], dtype=np.float64)


def test_mme_adds_accuracy_and_images_of_each_subtask():
    right = scoring.tally_image([True, True])
    half = scoring.tally_image([True, False])
    first = np.add(right, half)
    assert scoring.combine_mme(sums(first, right)) == [75 + 50 + 200]


def test_pope_is_the_mean_of_three():
    marks = [[True, True], [True, False], [False, True]]
    assert scoring.tally_yes(marks) == (1, 2, 2)
    assert scoring.combine_f1(sums((1, 2, 2), (1, 1, 1), (0, 0, 3))) == [100 * (0.5 + 1 + 0) / 3]


def test_answers_that_no_judge_marked_do_not_count():
    assert scoring.tally_mean([0.5, None, 1.0]) == (1.5, 2)
    assert scoring.tally_judged([[1, 4], None, [0, 1]]) == (1, 5, 2)
    assert scoring.combine_judged(sums((1, 5, 2))) == [50]
    assert scoring.combine_mean(sums((0, 0))) == [0]
