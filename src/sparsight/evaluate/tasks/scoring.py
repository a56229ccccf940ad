"""Scores of the benchmarks: how an answer is marked, tallied and combined. Pure functions.

Source: LLaVA, evaluation scripts of release 1.5 (https://github.com/haotian-liu/LLaVA), which the
    authors of SparseVLM use unchanged.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparsight.evaluate.tasks.task import Sums

LETTERS = "ABCDE"
NEGATIVE = frozenset(("No", "not", "no"))  # words of POPE's answers, in this letter case
READ_BY_MME = 4  # characters at the start of an answer
STATED = re.compile(r"The answer is ([A-Z]).")
BETWEEN_WORDS = re.compile(r"[\s.,:;!?()\[\]\"'*]+")

# ---- marks of one answer


def mark_gqa(answer: str, target: str) -> bool:
    """Return whether an answer, in lower case and without final periods, is the expected one."""
    return answer.rstrip(".").lower() == target


def mark_exactly(answer: str, target: str) -> bool:
    """Return whether an answer is the expected one, letter by letter, as SEED-Bench is scored."""
    return answer == target


def mark_mmbench(answer: str, target: Mapping[str, Any]) -> bool:
    """Return whether an answer chooses the expected option.

    Args: target: `answer`, a letter, and `options`, text by letter.
    """
    return choose_option(answer, target["options"]) == str(target["answer"])


def choose_option(answer: str, options: Mapping[str, str]) -> str | None:
    """Return the letter of the option that an answer chooses; None if it chooses none.

    The first word that is the letter of an option counts; without one, the only option whose text
    stands in the answer.
    Differs: the official scorer asks a language model about answers that name no option; here they
        choose none, and are wrong.
    """
    for word in BETWEEN_WORDS.split(answer):
        if word in options:
            return word
    said = [letter for letter, text in options.items() if text.lower() in answer.lower()]
    return said[0] if len(said) == 1 else None


def mark_mme(answer: str, target: str) -> bool:
    """Return whether the first four characters of an answer hold the expected yes or no."""
    start = answer.lower()[:READ_BY_MME]
    said = "yes" if "yes" in start else "no" if "no" in start else "other"
    return said == target


def mark_pope(answer: str, target: str) -> list[bool]:
    """Return whether an answer says yes, and whether yes is expected.

    An answer whose first sentence has none of the words No, not and no says yes, also if it is
    empty.
    """
    words = answer.split(".", maxsplit=1)[0].replace(",", "").split(" ")
    return [not NEGATIVE & set(words), target == "yes"]


def mark_scienceqa(answer: str, target: Mapping[str, Any]) -> bool:
    """Return whether an answer chooses the expected option.

    It is a letter, begins with a letter and ". ", or states "The answer is X." once.

    Args: target: `answer`, a letter, and `choices`, how many options there are.
    """
    stated = STATED.findall(answer)
    if answer and answer in LETTERS and len(answer) == 1:
        letter = answer
    elif len(answer) >= 3 and answer[0] in LETTERS and answer[1:3] == ". ":
        letter = answer[0]
    elif len(stated) == 1:
        letter = stated[0]
    else:
        return False
    return letter in LETTERS[: target["choices"]] and letter == str(target["answer"])


# ---- sums of one group


def tally_mean(marks: Sequence[Any]) -> tuple[float, ...]:
    """Return the sum of marks, and how many there are; those that are None do not count."""
    known = [float(mark) for mark in marks if mark is not None]
    return sum(known), float(len(known))


def tally_circle(marks: Sequence[bool]) -> tuple[float, ...]:
    """Return 1 if all questions are answered rightly, and 1: MMBench's circular evaluation."""
    return float(all(marks)), 1.0


def tally_image(marks: Sequence[bool]) -> tuple[float, ...]:
    """Return right answers, answers, whether all are right, and 1: MME's questions of one image."""
    return float(sum(marks)), float(len(marks)), float(all(marks)), 1.0


def tally_yes(marks: Sequence[Sequence[bool]]) -> tuple[float, ...]:
    """Return how often yes was rightly said, said, and expected."""
    both = sum(said and truth for said, truth in marks)
    return float(both), float(sum(mark[0] for mark in marks)), float(sum(mark[1] for mark in marks))


def tally_judged(marks: Sequence[Sequence[float] | None]) -> tuple[float, ...]:
    """Return the sums of yes and of scores, and how many a judge has marked."""
    known = [mark for mark in marks if mark is not None]
    yes = sum(float(mark[0]) for mark in known)
    return yes, sum(float(mark[1]) for mark in known), float(len(known))


# ---- scores of sums (S, parts, K)


def combine_mean(sums: Sums) -> Sums:
    """Return 100 times the mean mark over all parts, (S,)."""
    total = sums.sum(axis=1)
    return _divide(100 * total[:, 0], total[:, 1])


def combine_mme(sums: Sums) -> Sums:
    """Return the sum over parts of accuracy and of images with no wrong answer, each of 100."""
    parts = _divide(sums[..., 0], sums[..., 1]) + _divide(sums[..., 2], sums[..., 3])
    return np.asarray(100 * parts.sum(axis=1))


def combine_f1(sums: Sums) -> Sums:
    """Return 100 times the mean over parts of F1 of yes, (S,)."""
    parts = _divide(2 * sums[..., 0], sums[..., 1] + sums[..., 2])
    return np.asarray(100 * parts.mean(axis=1))


def combine_judged(sums: Sums) -> Sums:
    """Return the share of yes among judged answers, in %, (S,)."""
    total = sums.sum(axis=1)
    return _divide(100 * total[:, 0], total[:, 2])


def _divide(first: Sums, second: Sums) -> Sums:
    """Return first / second, 0 where second is 0."""
    return np.asarray(first / np.where(second == 0, 1, second))
