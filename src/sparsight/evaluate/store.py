"""The folder of an evaluation: what it was made with, and every answer as soon as it is given."""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sparsight
from sparsight.errors import InputError
from sparsight.evaluate.record import Record, read_line
from sparsight.evaluate.scenes import Question, load_suite
from sparsight.evaluate.scoring import normalised
from sparsight.evaluate.settings import Settings

RUN, ANSWERS, RESULTS = "run.json", "answers.jsonl", "results.json"


class Store:
    """Answers on the disk; written one by one.

    Args:
        folder: of the evaluation.
        records: found there, by configuration and question.
        notes: what a person should know about what was found.
    """

    def __init__(
        self, folder: Path, records: dict[tuple[str, str], Record], notes: tuple[str, ...]
    ) -> None:
        self.folder, self.records, self.notes = folder, records, notes
        self._file = (folder / ANSWERS).open("a", encoding="utf-8", newline="\n")

    def add(self, record: Record) -> None:
        """Write an answer down, through to the disk."""
        self._file.write(record.line())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.records[record.pair] = record

    def close(self) -> None:
        """Write nothing more."""
        self._file.close()

    def __enter__(self) -> Self:
        """Enter the block; the file is open already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()


def open_store(settings: Settings, suite: tuple[Question, ...] | None = None) -> Store:
    """Open an evaluation's folder, new or to be continued.

    Args:
        settings: of the evaluation.
        suite: its questions, if they are loaded already.
    Returns: what was answered before, ready to take more.
    Raises: InputError: the folder cannot be written, holds another evaluation, or a line of its
    answers is damaged.
    """
    folder = settings.out
    suite = load_suite(settings.suite) if suite is None else suite
    made = _made_with(settings, suite)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_same(folder, made)
        records, notes = _read_answers(folder / ANSWERS, made["methods"], suite)
        _write_safely(folder / RUN, made)
        return Store(folder, {record.pair: record for record in records}, notes)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror or error}); give another --out."
        ) from error


def write_results(folder: Path, found: dict[str, Any]) -> None:
    """Write the results beside the answers, whole or not at all.

    Raises: InputError: they cannot be written.
    """
    try:
        _write_safely(folder / RESULTS, found)
    except OSError as error:
        raise InputError(
            f"{folder / RESULTS} cannot be written ({error.strerror or error})."
        ) from error


def read_records(folder: Path) -> list[Record]:
    """Read the answers of an evaluation, a half-written last one left out.

    Raises: InputError: there are none, or a line is damaged.
    """
    path = folder / ANSWERS
    if not path.is_file():
        raise InputError(f"{folder} holds no {ANSWERS}; give the --out of an evaluation.")
    return _parse(path, path.read_bytes())[0]


def suite_hash(suite: tuple[Question, ...], folder: Path) -> str:
    """Return a SHA-256 of a suite's questions and images; which are hard for downscaling does not enter it.

    Raises: InputError: an image is missing.
    """
    digest, names = hashlib.sha256(), set[str]()
    for question in suite:
        digest.update(json.dumps(asdict(replace(question, hard_for_downscaling=None))).encode())
        names.update(question.images)
    for name in sorted(names):
        try:
            digest.update((folder / "images" / name).read_bytes())
        except OSError as error:
            raise InputError(
                f"image {name} of {folder} cannot be read ({error.strerror or error})."
            ) from error
    return digest.hexdigest()


def _made_with(settings: Settings, suite: tuple[Question, ...]) -> dict[str, Any]:
    """Return what must not change while an evaluation is continued."""
    return {
        "sparsight": sparsight.__version__,
        "suite": suite_hash(suite, settings.suite),
        "model": settings.model,
        "dtype": settings.dtype,
        "seed": settings.seed,
        "control": settings.control,
        "max_new_tokens": settings.max_new_tokens,
        "methods": {one.key: repr(one.method) for one in settings.configurations},
    }


def _check_same(folder: Path, made: dict[str, Any]) -> None:
    """Check against what the folder was made with; methods that it does not know yet are taken up into `made`.

    Raises: InputError: something differs.
    """
    path = folder / RUN
    if not path.exists():
        if (folder / ANSWERS).exists():
            raise InputError(
                f"{folder} holds answers without a {RUN} that says whose; give another --out."
            )
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        methods = dict(before.pop("methods"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}); give another --out.") from error
    now, wanted = {key: value for key, value in made.items() if key != "methods"}, made["methods"]
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    differences = [f"{name} {before.get(name)!r} there, {now.get(name)!r} now" for name in names]
    differences += [
        f"{key} {methods[key]} there, {wanted[key]} now"
        for key in wanted
        if key in methods and methods[key] != wanted[key]
    ]
    if differences:
        raise InputError(
            f"{folder} holds another evaluation ({'; '.join(differences)}); give another --out."
        )
    made["methods"] = methods | wanted


def _read_answers(
    path: Path, configurations: Collection[str], suite: tuple[Question, ...]
) -> tuple[list[Record], tuple[str, ...]]:
    """Read the answers, and cut a half-written last one off the file."""
    if not path.exists():
        return [], ()
    data = path.read_bytes()
    records, whole = _parse(path, data)
    questions = {question.id: question for question in suite}
    for number, record in enumerate(records, 1):
        fault = _fault(record, configurations, questions)
        if fault is not None:
            raise _damaged(path, number, fault)
    if whole == len(data):
        return records, ()
    os.truncate(path, whole)
    return records, (
        f"the last line of {path} was half-written; it was dropped and is asked again.",
    )


def _fault(
    record: Record, configurations: Collection[str], questions: Mapping[str, Question]
) -> str | None:
    """Say what a record tells otherwise than the evaluation that it is in; None if nothing."""
    question = questions.get(record.question)
    if record.configuration not in configurations:
        return f"configuration {record.configuration!r} is not of this evaluation"
    if question is None:
        return f"question {record.question!r} is not in the suite"
    expected = tuple(turn.answer for turn in question.turns)
    for name, told, known in (
        ("family", record.family, question.family),
        ("split", record.split, question.split),
        ("expected", record.expected, expected),
    ):
        if told != known:
            return f"{name} {told!r} is {known!r} in the suite"
    right = tuple(
        normalised(a) == normalised(b) for a, b in zip(record.answers, expected, strict=True)
    )
    return None if record.right == right else "its marks are not those of its answers"


def _damaged(path: Path, number: int, why: object) -> InputError:
    return InputError(
        f"{path}: line {number} is damaged ({why}); take it out to have it asked again, or change --out."
    )


def _parse(path: Path, data: bytes) -> tuple[list[Record], int]:
    """Return the records of all whole lines, and how many bytes those take."""
    whole = data.rfind(b"\n") + 1
    records = []
    for number, line in enumerate(data[:whole].split(b"\n")[:-1], 1):
        try:
            records.append(read_line(line.decode("utf-8")))
        except ValueError as error:
            raise _damaged(path, number, error) from error
    return records, whole


def _write_safely(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON document in one step."""
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
