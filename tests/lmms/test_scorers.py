"""The scorers of four benchmarks beside lmms-eval's own functions, where it is installed.

Both are given the same answers, hundreds of which are made up at random. They agree, but for what
each test names: there the scorers follow LLaVA's scripts, which the published numbers are of.
"""

import importlib
import importlib.util
import string
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparsight.evaluate.tasks import scoring
from sparsight.evaluate.tasks.vqa import CONTRACTED, MARKS, NUMBERS, mark_vqa, normalise

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lmms_eval") is None, reason="lmms-eval is not installed"
)
MANY = settings(max_examples=800, deadline=None, derandomize=True)
WORDS = [
    *NUMBERS.split(),
    *CONTRACTED.split(),
    *(word.replace("'", "") for word in CONTRACTED.split()),
    *("a", "an", "the", "A", "The", "dog", "Dogs", "STOP", "t-shirt", "coca/cola", "red's"),
    *("1,000", "3.5", ".5", "12", "1,2", "10.", "é", "ß", "İ", "漢字", "..", "5 o'clock", ""),
]
SPACES = [" ", "  ", "\n", "\t", ", ", ". ", "", ",", ".", *MARKS, "'s ", "'"]


@st.composite
def texts(draw, words=WORDS, most=5):
    """Words with spaces and marks around and between them, in any case."""
    parts = [draw(st.sampled_from(SPACES))]
    for word in draw(st.lists(st.sampled_from(words), max_size=most)):
        parts += [word, draw(st.sampled_from(SPACES))]
    change = draw(st.sampled_from([str, str.lower, str.upper, str.title]))
    return change("".join(parts)).strip()


def take(name):
    """A module of lmms-eval."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"lmms_eval.{name}")


# ---- TextVQA: the same normalisation and accuracy


@pytest.fixture(scope="module")
def textvqa():
    return take("tasks.textvqa.utils")


@MANY
@given(texts())
def test_answers_of_textvqa_are_normalised_alike(textvqa, answer):
    assert normalise(answer) == textvqa.EvalAIAnswerProcessor()(answer)


def test_each_word_of_their_lists_is_normalised_alike(textvqa):
    theirs = textvqa.EvalAIAnswerProcessor()
    pairs = [*theirs.CONTRACTIONS.items(), *theirs.NUMBER_MAP.items()]
    words = {*WORDS, *(word for pair in pairs for word in pair), *theirs.ARTICLES, "somebodyd"}
    assert len(words) > 200
    assert {word: normalise(word) for word in words} == {word: theirs(word) for word in words}


@MANY
@given(texts(most=2), st.lists(texts(most=2), min_size=1, max_size=3), st.data())
def test_textvqa_has_the_same_accuracy(textvqa, answer, others, data):
    target = data.draw(st.lists(st.sampled_from([answer, *others]), min_size=10, max_size=10))
    document = {"answers": list(target), "question_id": 1}
    theirs = textvqa.textvqa_process_results(document, [answer])["exact_match"]
    assert mark_vqa(answer, target) == pytest.approx(theirs)


# ---- MME: alike but for single letters, and for periods and spaces among the first characters


@pytest.fixture(scope="module")
def mme():
    return take("tasks.mme.utils")


YES_NO = [*WORDS, *["yes", "no", "Yes", "No", "not", "yesterday", "now", "y", "n"] * 20]


def say(answer):
    """What an answer says here."""
    return next((label for label in ("yes", "no") if scoring.mark_mme(answer, label)), "other")


@MANY
@given(texts(YES_NO))
@example("Yes.")
@example("No, it is not.")
def test_mme_reads_the_same_answers(mme, answer):
    theirs = mme.parse_pred_ans(answer)
    plain = answer.lower().replace(".", "")
    if plain in ("y", "n"):
        assert (say(answer), theirs) == ("other", {"y": "yes", "n": "no"}[plain])
    elif "." not in answer.strip()[:4]:
        assert say(answer) == theirs


@pytest.mark.parametrize("answer", ["...yes", "n.o", "...no"])
def test_periods_before_an_answer_hide_it_here(mme, answer):
    assert say(answer) == "other"
    assert mme.parse_pred_ans(answer) in ("yes", "no")


@MANY
@given(st.lists(st.tuples(st.integers(0, 13), st.booleans(), st.booleans()), min_size=1))
def test_mme_adds_up_to_the_same_score(mme, images):
    parts: dict[int, list[tuple[bool, bool]]] = {}
    for part, *right in images:
        parts.setdefault(part, []).append(tuple(right))
    sums = []
    for own in parts.values():
        tallies = [scoring.tally_image(pair) for pair in own]
        sums.append(np.sum(tallies, axis=0))
    rows = []
    for part, own in parts.items():
        for number, pair in enumerate(own):
            row = {"question_id": f"{part}/{number}", "category": str(part)}
            rows += [{**row, "score": float(right)} for right in pair]
    theirs = mme.mme_aggregate_results(rows)
    assert scoring.combine_mme(np.array([sums]))[0] == pytest.approx(theirs)


# ---- ScienceQA: alike but for small letters, "B." alone, and "The answer is B."


@pytest.fixture(scope="module")
def sqa():
    return take("tasks.scienceqa.utils")


LETTERS = [*"ABCDEabcdeXY", "A. ", "B. red", "C.", "The answer is B.", "The answer is", "green"]


@MANY
@given(texts(LETTERS, most=2), st.integers(2, 5), st.data())
@example("The answer is B.", 2, None).via("a sentence that LLaVA's script reads")
def test_scienceqa_marks_the_same_answers(sqa, answer, choices, data):
    place = 1 if data is None else data.draw(st.integers(0, choices - 1))
    letter = "ABCDE"[place]
    ours = scoring.mark_scienceqa(answer, {"answer": letter, "choices": choices})
    document = {"choices": ["x"] * choices, "answer": place}
    theirs = sqa.sqa_process_results(document, [answer])["exact_match"] == 1.0
    if ours and not theirs:
        assert f"The answer is {letter}" in answer
    if theirs and not ours:
        assert answer == letter.lower() or (answer[:2] == f"{letter}." and answer[2:3] != " ")


@pytest.mark.parametrize(
    ("answer", "ours", "theirs"),
    [
        ("B", True, True),
        ("B. green", True, True),
        ("b", False, True),
        ("B.", False, True),
        ("B.green", False, True),
        ("The answer is B.", True, False),
        ("The answer is B. The answer is A.", False, False),
        ("green", False, False),
    ],
)
def test_where_scienceqa_differs(sqa, answer, ours, theirs):
    assert scoring.mark_scienceqa(answer, {"answer": "B", "choices": 2}) is ours
    document = {"choices": ["red", "green"], "answer": 1}
    assert sqa.sqa_process_results(document, [answer])["exact_match"] == theirs


# ---- GQA: alike but for punctuation other than final periods


@pytest.fixture(scope="module")
def metrics():
    return take("api.metrics")


def match(metrics, answer, target):
    """Whether lmms-eval's metric of GQA takes an answer as right."""
    ignored = {"ignore_case": True, "ignore_punctuation": True}
    found = metrics.exact_match_fn(predictions=[answer], references=[target], **ignored)
    return bool(found["exact_match"] == 1.0)


@MANY
@given(texts(most=2), texts(most=2))
def test_gqa_marks_the_same_answers(metrics, answer, other):
    target = other.lower().rstrip(".") or "red"
    for said in (answer, target, target.title(), f"{target}."):
        ours, theirs = scoring.mark_gqa(said, target), match(metrics, said, target)
        assert theirs or not ours
        if theirs and not ours:
            left = said.rstrip(".").lower() + target
            assert set(left) & set(string.punctuation)


@pytest.mark.parametrize(
    ("answer", "ours", "theirs"),
    [
        ("T-Shirt.", True, True),
        ("t-shirt!", False, True),
        ("tshirt", False, True),
        ("a t-shirt", False, False),
    ],
)
def test_where_gqa_differs(metrics, answer, ours, theirs):
    assert scoring.mark_gqa(answer, "t-shirt") is ours
    assert match(metrics, answer, "t-shirt") is theirs
