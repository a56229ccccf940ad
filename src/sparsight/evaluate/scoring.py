"""Scores: what counts as right, accuracy, F1, and the confidence interval of a difference. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsight.evaluate.record import Record

YES_NO = "existence"  # the family whose score is F1
RESAMPLES = 2000


def normalise(answer: str) -> str:
    """Return an answer without outer space and final period, in lower case."""
    return answer.strip().removesuffix(".").strip().lower()


def is_right(answer: str, expected: str) -> bool:
    """Return whether an answer is the expected one, both normalised."""
    return normalise(answer) == normalise(expected)


@dataclass(frozen=True)
class Marks:
    """Which questions of one family or part were answered rightly, under one configuration.

    Args:
        right: (n,) bool.
        said: (n,) bool, whether the answer was yes.
        truth: (n,) bool, whether yes was expected.
        binary: whether the score is F1 of yes.
    """

    right: NDArray[np.bool_]
    said: NDArray[np.bool_]
    truth: NDArray[np.bool_]
    binary: bool

    def scores(self, drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the scores of several samples of the questions.

        Args:
            drawn: (S, m) int64, the questions of each sample.

        Returns:
            (S,) float64 in 0..1.
        """
        if not self.binary:
            return np.asarray(self.right[drawn].mean(axis=1))
        both = (self.said & self.truth)[drawn].sum(axis=1)
        either = self.said[drawn].sum(axis=1) + self.truth[drawn].sum(axis=1)
        return np.asarray(2 * both / np.maximum(either, 1))

    @property
    def score(self) -> float:
        """Accuracy, or F1 of yes where that is the score."""
        return float(self.scores(np.arange(len(self.right))[None])[0])

    def as_dict(self) -> dict[str, Any]:
        """Return n, accuracy and, for yes-or-no questions, F1 and the share of yes."""
        numbers: dict[str, Any] = {"n": len(self.right), "accuracy": float(self.right.mean())}
        if self.binary:
            numbers |= {"f1": self.score, "yes_share": float(self.said.mean())}
        return numbers


def collect_marks(records: Sequence[Record], turn: int = -1) -> Marks:
    """Return the marks of one turn of at least one record, all of one family."""
    answers = [normalise(record.answers[turn]) for record in records]
    expected = [normalise(record.expected[turn]) for record in records]
    return Marks(
        right=np.array([record.right[turn] for record in records], dtype=np.bool_),
        said=np.array([answer == "yes" for answer in answers], dtype=np.bool_),
        truth=np.array([answer == "yes" for answer in expected], dtype=np.bool_),
        binary=records[0].family == YES_NO,
    )


def bootstrap_interval(
    pairs: Sequence[tuple[Marks, Marks]], seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two mean scores, by a paired bootstrap.

    Questions are drawn family by family.

    Args:
        pairs: for each family, the marks of both on the same questions in the same order.
        seed: of the draws.
        resamples: number of them.

    Returns:
        The 2.5th and 97.5th percentile of first minus second, in points of 100.
    """
    draws = np.random.default_rng(seed)
    total = np.zeros(resamples)
    for first, second in pairs:
        count = len(first.right)
        drawn = draws.integers(count, size=(resamples, count))
        total += first.scores(drawn) - second.scores(drawn)
    low, high = np.percentile(100 * total / len(pairs), (2.5, 97.5))
    return float(low), float(high)
