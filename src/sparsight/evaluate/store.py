"""The folder of an evaluation: run.json says what it is of, answers.jsonl holds every answer."""

import hashlib
import json
import os
import warnings
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sparsight
from sparsight.errors import InputError, InputWarning
from sparsight.evaluate.folder import (
    RESULTS,
    RUN,
    check_same,
    describe_method,
    read_description,
    write_whole,
)
from sparsight.evaluate.lock import build_unwritable_error, lock_folder
from sparsight.evaluate.record import Record, read_line
from sparsight.evaluate.scenes import Question, load_suite
from sparsight.evaluate.scoring import is_right
from sparsight.evaluate.settings import Settings

ANSWERS = "answers.jsonl"


class Store:
    """Answers on the disk; each is written as soon as it is given.

    Args:
        folder: of the evaluation.
        records: that the folder holds already, by configuration and question.
        notes: for people, on what the folder held.
        file: of answers, open at its end.
        opened: file and lock of the folder, which end when the store is closed.
    """

    def __init__(
        self,
        folder: Path,
        records: dict[tuple[str, str], Record],
        notes: tuple[str, ...],
        file: FileIO,
        opened: ExitStack,
    ) -> None:
        self.folder = folder
        self.records = records
        self.notes = notes
        self._file = file
        self._opened = opened

    @property
    def closed(self) -> bool:
        """Whether the store takes no more answers."""
        return self._file.closed

    def add(self, record: Record) -> None:
        """Write an answer, through to the disk.

        Raises: InputError: it cannot be written.
        """
        data = memoryview(record.to_line().encode("utf-8"))
        try:
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise InputError(
                f"{self.folder / ANSWERS} cannot be written ({error.strerror or error}); answers "
                "before it are kept."
            ) from error
        self.records[record.pair] = record

    def close(self) -> None:
        """Close the file of answers, and let other runs write the folder."""
        self._opened.close()

    def __enter__(self) -> Self:
        """Enter the block; the file is open already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the store."""
        self.close()


def open_store(settings: Settings, suite: tuple[Question, ...] | None = None) -> Store:
    """Open the folder of an evaluation, a new one or one to be continued.

    No other run can open it until the store is closed.

    Args:
        settings: of the evaluation.
        suite: its questions, if they are loaded already.

    Returns:
        The answers given before, ready to take more.

    Raises:
        InputError: the folder cannot be written, is being written by another run, holds another
            evaluation, or a line of its answers is damaged.
    """
    folder = settings.out
    suite = load_suite(settings.suite) if suite is None else suite
    now = _describe(settings, suite)
    with ExitStack() as stack:
        stack.enter_context(lock_folder(folder))
        try:
            before = read_description(folder, ANSWERS)
            if before is not None:
                check_same(folder, before, now)
                now["methods"] = before["methods"] | now["methods"]
            records, notes = _read_answers(folder / ANSWERS, now["methods"], suite)
            write_whole(folder / RUN, now)
            given = {record.pair: record for record in records}
            # unbuffered: what cannot be written is not tried again when the file is closed
            file = stack.enter_context((folder / ANSWERS).open("ab", buffering=0))
            return Store(folder, given, notes, file, stack.pop_all())
        except OSError as error:
            raise build_unwritable_error(folder, error) from error


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Write the results beside the answers, whole or not at all.

    Raises:
        InputError: the results cannot be written.
    """
    path = folder / RESULTS
    try:
        write_whole(path, results)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}).") from error


def read_records(folder: Path) -> list[Record]:
    """Return the answers of an evaluation.

    Warns (InputWarning) of a last one that is half-written, and leaves it out.

    Raises:
        InputError: there is no file of answers, or one of its lines is damaged.
    """
    path = folder / ANSWERS
    if not path.is_file():
        raise InputError(f"{folder} holds no {ANSWERS}; give the --out of an evaluation.")
    data = path.read_bytes()
    records, whole = _parse(path, data)
    if whole != len(data):
        warnings.warn(
            f"the last line of {path} is half-written: its {len(data) - whole} bytes are left out, "
            "and stay in the file; the command that wrote it asks it again.",
            InputWarning,
            stacklevel=2,
        )
    return records


def hash_suite(suite: tuple[Question, ...], folder: Path) -> str:
    """Return the SHA-256 of a suite's questions and images.

    The marks `hard_for_downscaling` are left out: they come from an evaluation of the suite, and
    must not make it another suite.

    Raises:
        InputError: an image is missing.
    """
    digest = hashlib.sha256()
    names: set[str] = set()
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


def _describe(settings: Settings, suite: tuple[Question, ...]) -> dict[str, Any]:
    """Return what must not change while an evaluation is continued; methods may be added."""
    return {
        "sparsight": sparsight.__version__,
        "suite": hash_suite(suite, settings.suite),
        "model": settings.model,
        "dtype": settings.dtype,
        "seed": settings.seed,
        "control": settings.control,
        "max_new_tokens": settings.max_new_tokens,
        "share_encoding": settings.share_encoding,
        "methods": {one.key: describe_method(one.method) for one in settings.configurations},
    }


def _read_answers(
    path: Path, configurations: Collection[str], suite: tuple[Question, ...]
) -> tuple[list[Record], tuple[str, ...]]:
    """Return the answers and notes on them; a half-written last line is cut off the file."""
    if not path.exists():
        return [], ()
    data = path.read_bytes()
    records, whole = _parse(path, data)
    questions = {question.id: question for question in suite}
    for number, record in enumerate(records, 1):
        fault = _find_fault(record, configurations, questions)
        if fault is not None:
            raise _build_damage_error(path, number, fault)
    if whole == len(data):
        return records, ()
    os.truncate(path, whole)
    note = f"the last line of {path} was half-written; it was dropped and is asked again."
    return records, (note,)


def _find_fault(
    record: Record, configurations: Collection[str], questions: Mapping[str, Question]
) -> str | None:
    """Return in what a record contradicts the evaluation that holds it; None if in nothing."""
    question = questions.get(record.question)
    if record.configuration not in configurations:
        return f"configuration {record.configuration!r} is not of this evaluation"
    if question is None:
        return f"question {record.question!r} is not in the suite"
    expected = tuple(turn.answer for turn in question.turns)
    in_suite = {"family": question.family, "split": question.split, "expected": expected}
    for name, value in in_suite.items():
        recorded = getattr(record, name)
        if recorded != value:
            return f"{name} {recorded!r} is {value!r} in the suite"
    if record.right != tuple(map(is_right, record.answers, expected)):
        return "its marks are not those of its answers"
    return None


def _build_damage_error(path: Path, number: int, why: object) -> InputError:
    return InputError(
        f"{path}: line {number} is damaged ({why}); "
        "take it out to have it asked again, or change --out."
    )


def _parse(path: Path, data: bytes) -> tuple[list[Record], int]:
    """Return the records of all whole lines, and the number of bytes of those lines."""
    whole = data.rfind(b"\n") + 1
    records = []
    for number, line in enumerate(data[:whole].split(b"\n")[:-1], 1):
        try:
            records.append(read_line(line.decode("utf-8")))
        except ValueError as error:
            raise _build_damage_error(path, number, error) from error
    return records, whole
