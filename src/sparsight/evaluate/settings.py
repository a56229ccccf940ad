"""Settings of an evaluation: configurations, questions, control. Checked when they are built."""

import zlib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from sparsight.errors import InputError, SettingError
from sparsight.evaluate.scenes import FAMILIES, SPLIT, Question
from sparsight.methods.method import Method, check_choice

Control = Literal["none", "question-only", "swapped"]
CONTROLS: tuple[str, ...] = get_args(Control)
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Configuration:
    """One method at one budget, or the dense model.

    Args:
        name: that results show.
        method: with its budget; None for the dense model.
    """

    name: str
    method: Method | None = None

    @property
    def budget(self) -> float | None:
        """What the method retains; None for the dense model."""
        return None if self.method is None else self.method.retain

    @property
    def key(self) -> str:
        """Name and budget, which are unique in an evaluation."""
        return self.name if self.budget is None else f"{self.name}@{self.budget:g}"

    def adapt_method(self, question: Question, still: int, seed: int) -> Method | None:
        """Return the method with the budget and the seed that it has for one question.

        A count is the budget of one still image. Several images and clips keep the fraction of
        their visual tokens that the count is of one image's.

        Args:
            question: about to be asked.
            still: visual tokens of one still image.
            seed: of the evaluation; a method that draws gets another seed for each question.
        """
        if self.method is None:
            return None
        method = self.method
        retain = method.retain
        if isinstance(retain, int) and (question.frames or len(question.images) > 1):
            method = replace(method, retain=min(retain / still, 1.0))
        return reseed(method, zlib.crc32(f"{seed}/{question.id}".encode()))


def reseed(method: Method, seed: int) -> Method:
    """Return a method with another seed, if it or the method that it is built on draws."""
    changes: dict[str, Any] = {}
    for field in fields(method):
        value = getattr(method, field.name)
        if field.name == "seed":
            changes["seed"] = seed
        elif isinstance(value, Method):
            changes[field.name] = reseed(value, seed)
    return replace(method, **changes) if changes else method


DENSE = Configuration("dense")


@dataclass(frozen=True)
class Settings:
    """What an evaluation asks, whom, and where it writes.

    Args:
        configurations: that are compared.
        suite: folder of the questions.
        families: of questions that are asked.
        limit: questions of each part (family and split), None for all.
        control: "none"; "question-only" shows no image; "swapped" shows another question's images.
        seed: of methods that draw, and of resampling.
        max_new_tokens: length of an answer, at most.
        model: name, folder or hub id, for the record.
        dtype: of the model.
        share_encoding: whether a question's images are encoded once for all configurations, which
            is faster; no seconds are reported then.
        out: folder of answers and results.
    """

    configurations: tuple[Configuration, ...] = (DENSE,)
    suite: Path = SPLIT
    families: tuple[str, ...] = FAMILIES
    limit: int | None = None
    control: Control = "none"
    seed: int = 0
    max_new_tokens: int = 10
    model: str = "embedded"
    dtype: str = "float32"
    share_encoding: bool = False
    out: Path = Path("sparsight-eval")

    def __post_init__(self) -> None:
        """Check everything that needs no model."""
        keys = [configuration.key for configuration in self.configurations]
        check_once("configuration", keys)
        check_once("family", self.families)
        for family in self.families:
            check_choice("family", family, FAMILIES)
        check_choice("control", self.control, CONTROLS)
        check_choice("dtype", self.dtype, DTYPES)
        if self.limit is not None and self.limit < 1:
            raise SettingError(f"limit={self.limit} asks nothing; give a count >= 1.")
        if self.seed < 0:
            raise SettingError(f"seed={self.seed} is out of range; give an int >= 0.")
        if self.max_new_tokens < 1:
            raise SettingError(
                f"max_new_tokens={self.max_new_tokens} answers nothing; give a count >= 1."
            )
        if self.control == "question-only" and keys != [DENSE.key]:
            raise SettingError(
                "control='question-only' shows no image that could be pruned; evaluate dense alone."
            )


def check_once(what: str, names: tuple[str, ...] | list[str]) -> None:
    """Raise SettingError if a list of names is empty or holds a name twice."""
    if not names:
        raise SettingError(f"no {what} is given; give at least one.")
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise SettingError(f"{what} {twice!r} is given twice; give it once.")


@dataclass(frozen=True)
class Case:
    """A question, and the question whose images are shown with it.

    Args:
        question: asked.
        shown: the question itself; another one (control "swapped"); or None for no image.
    """

    question: Question
    shown: Question | None


def choose_cases(suite: tuple[Question, ...], settings: Settings) -> list[Case]:
    """Return the questions to ask, in an order that mixes the parts.

    Mixed, because the time per answer shown at the start then predicts the whole.

    Raises:
        InputError: there is no question to ask, or a part has no other images to show.
    """
    parts: dict[tuple[str, str], list[Question]] = {}
    for question in suite:
        if question.family in settings.families:
            parts.setdefault((question.family, question.split), []).append(question)
    cases = []
    for part in parts.values():
        for number, question in enumerate(part[: settings.limit]):
            shown = None if settings.control == "question-only" else question
            if settings.control == "swapped":
                shown = _find_other(part, number)
            cases.append(Case(question, shown))
    if not cases:
        raise InputError(f"the suite has no question of {', '.join(settings.families)}.")
    return sorted(cases, key=lambda case: zlib.crc32(case.question.id.encode()))


def _find_other(part: list[Question], number: int) -> Question:
    """Return the next question of a part, cyclically, that shares no image with `part[number]`."""
    question = part[number]
    for other in part[number + 1 :] + part[:number]:
        same_layout = len(other.images) == len(question.images) and other.frames == question.frames
        if same_layout and not set(other.images) & set(question.images):
            return other
    raise InputError(
        f"question {question.id} has no question beside it whose images could be swapped in."
    )
