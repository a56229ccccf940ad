"""What a task is: its questions, how an answer is marked, and how marks become a score.

A score is made of sums. Questions that count together form a group, a group is tallied to a few
numbers, and the numbers of all groups of a part are added up. So a score of resampled questions is
the score of resampled sums.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Sums = NDArray[np.float64]
Marker = Callable[[str, Any], Any]
Tally = Callable[[Sequence[Any]], tuple[float, ...]]
Combine = Callable[[Sums], Sums]

WHOLE = "all"  # the part of tasks that have no parts


@dataclass(frozen=True)
class Item:
    """One question of a task.

    Args:
        id: unique in the task; answers are paired by it.
        text: that stands behind the images in the prompt, with its instruction.
        target: that an answer is compared with, as JSON holds it.
        images: paths or data: URLs, in the order of the prompt.
        video: whose frames are shown; None for still images.
        part: of the task; questions are resampled part by part.
        group: questions that count together have the same one.
        question: without context and instruction, for a judge and for exports.
        kinds: that the question is of, of those that the task names; scores are also given by kind.
    """

    id: str
    text: str
    target: Any
    images: tuple[str, ...] = ()
    video: Path | None = None
    part: str = WHOLE
    group: str = ""
    question: str = ""
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Need:
    """A file or folder that a task is read from.

    Args:
        paths: below the data folder; one of them has to be there.
        source: where people get it.
    """

    paths: tuple[str, ...]
    source: str

    def find(self, data: Path) -> Path | None:
        """Return the first path that exists; None if there is none."""
        found = [data / path for path in self.paths if (data / path).exists()]
        return found[0] if found else None


@dataclass(frozen=True)
class Task:
    """One benchmark.

    Args:
        name: on the command line.
        title: in tables.
        metric: that the score is.
        needs: files and folders, by the name that `read` gets them under.
        read: returns the questions, from the paths of `needs`.
        mark: returns the mark of an answer, from the answer (of a judged task: the judge's reply)
            and the target; None where a judge's reply cannot be read.
        fits: returns whether a target is of the kind that `mark` reads.
        tally: returns the sums of one group, from its marks.
        combine: returns the scores (S,) of sums (S, parts, K).
        unit: of the score: "%" or "points".
        max_new_tokens: length of an answer, at most, as the authors have it.
        wording: of the judge's prompt, see `judge.wordings`; "" where no judge is needed.
        frames: that are shown of a video; 0 for still images.
        sample: questions of each part that are asked where no limit is given; None for all.
        count: of questions in the release that the published rows are of; None if not known.
        extra: whether it is none of the paper's, and stands in no mean.
        kinds: names of kinds of questions, in the order of tables; empty where there are none.
    """

    name: str
    title: str
    metric: str
    needs: Mapping[str, Need]
    read: Callable[[Mapping[str, Path]], list[Item]]
    mark: Marker
    fits: Callable[[Any], bool]
    tally: Tally
    combine: Combine
    unit: str = "%"
    max_new_tokens: int = 1024
    wording: str = ""
    frames: int = 0
    sample: int | None = None
    count: int | None = None
    extra: bool = False
    kinds: tuple[str, ...] = ()

    @property
    def judged(self) -> bool:
        """Whether a judge marks the answers."""
        return bool(self.wording)
