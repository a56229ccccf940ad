"""Reads the files of benchmarks, and says what is wrong with them."""

import csv
import json
import reprlib
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from sparsight.errors import InputError

ASKED = ("question_id", "image")  # of each row of LLaVA's question files, besides its text
SHOWN = 3  # examples that an error names
LONGEST_CELL = 64 * 2**20  # characters of a cell that holds an image
_LIMIT_LOCK = threading.Lock()


def read_document(path: Path) -> Any:
    """Return a JSON document.

    Raises: InputError: the file cannot be read, or is no JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged or only half there ({error}); download it again."
        ) from error


def read_rows(path: Path, fields: Sequence[str], texts: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the rows of a file with one JSON object a line.

    Args:
        path: of the file.
        fields: that each row must have.
        texts: fields that each row must have, and that hold text.

    Raises: InputError: the file cannot be read, is empty, or a line is no such row.
    """
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path}: line {number} is damaged or only half there ({error}); download it again."
            ) from error
        check_fields(path, f"line {number}", row, fields)
        check_texts(path, f"line {number}", row, texts)
        rows.append(row)
    return _check_any(path, rows)


def read_list(path: Path, fields: Sequence[str], texts: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the rows of a JSON document that is a list of objects.

    Args: as `read_rows`.

    Raises: InputError: the file cannot be read, is empty, or an entry is no such row.
    """
    document = read_document(path)
    if not isinstance(document, list):
        raise InputError(f"{path} is no list; it seems to be of another release.")
    for number, row in enumerate(document, 1):
        check_fields(path, f"entry {number}", row, fields)
        check_texts(path, f"entry {number}", row, texts)
    return _check_any(path, document)


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a file with tabs between cells and names in the first line.

    Raises: InputError: the file cannot be read, is empty, cut off, or lacks a column.
    """
    try:
        with _allow_long_cells(), path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, delimiter="\t")
            rows = list(table)
            names = list(table.fieldnames or ())
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is damaged or only half there ({error}); download it again."
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    missing = [name for name in columns if name not in names]
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(missing)}; its columns are {', '.join(names)}: "
            "it seems to be of another release."
        )
    for number, row in enumerate(rows, 1):
        if None in row.values():
            raise InputError(f"{path}: row {number} is only half there; download it again.")
    return _check_any(path, rows)


@contextmanager
def _allow_long_cells() -> Iterator[None]:
    """Let the csv module read cells that hold images; its limit is one for the whole process."""
    with _LIMIT_LOCK:
        before = csv.field_size_limit(LONGEST_CELL)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def check_fields(path: Path, where: str, row: Any, fields: Sequence[str]) -> None:
    """Raise InputError unless a row is an object with all the fields."""
    missing = [name for name in fields if not isinstance(row, dict) or name not in row]
    if missing:
        raise InputError(
            f"{path}: {where} has no {', '.join(missing)}; it seems to be of another release."
        )


def check_texts(path: Path, where: str, row: Any, fields: Sequence[str]) -> None:
    """Raise InputError unless a row has all the fields, and each is a text that is not empty."""
    check_fields(path, where, row, fields)
    for name in fields:
        if not isinstance(row[name], str) or not row[name].strip():
            raise build_value_error(path, where, name, row[name], "a text that is not empty")


def check_choice_of(path: Path, where: str, row: Any, name: str, choices: Collection[str]) -> None:
    """Raise InputError unless a field of a row is one of some texts."""
    check_texts(path, where, row, (name,))
    if row[name] not in choices:
        raise build_value_error(path, where, name, row[name], f"one of {', '.join(choices)}")


def take_list(path: Path, where: str, row: Any, name: str) -> list[Any]:
    """Return the field of a row that is a list with entries.

    Raises: InputError: it is none.
    """
    check_fields(path, where, row, (name,))
    value = row[name]
    if not isinstance(value, list) or not value:
        raise build_value_error(path, where, name, value, "a list that is not empty")
    return value


def build_value_error(path: Path, where: str, name: str, value: Any, allowed: str) -> InputError:
    """Return the error of a field whose value cannot be used."""
    return InputError(
        f"{path}: {where} has {name} {reprlib.repr(value)}, which is not {allowed}; it is damaged "
        "or of another release: download it again."
    )


def list_ids(path: Path, rows: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """Return the ids of rows, as text.

    Raises: InputError: one is neither a text nor an integer, or stands twice.
    """
    for number, row in enumerate(rows, 1):
        value = row[name]
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
            raise build_value_error(path, f"row {number}", name, value, "a text or an integer")
    ids = [str(row[name]) for row in rows]
    check_unique(path, ids)
    return ids


def check_joined(
    missing: Collection[Any], total: int, questions: Path, answers: Path, why: str = "no answer"
) -> None:
    """Raise InputError if questions of one file have no answer in the other one."""
    if missing:
        first = ", ".join(str(one) for one in list(missing)[:SHOWN])
        raise InputError(
            f"{len(missing)} of {total} questions of {questions} have {why} in {answers}, such as "
            f"{first}: the two are of different releases; get both of the same one."
        )


def check_unique(path: Path, ids: Sequence[str]) -> None:
    """Raise InputError if a question stands in a file twice."""
    seen: set[str] = set()
    for one in ids:
        if one in seen:
            raise InputError(f"{path} holds question {one} twice; download it again.")
        seen.add(one)


def place_image(folder: Path, name: Any, path: Path) -> str:
    """Return the path of an image below a folder, whether or not it exists.

    Raises: InputError: the name is none, or leads out of the folder.
    """
    parts = PurePosixPath(str(name)).parts
    if not isinstance(name, str) or not parts or ".." in parts or parts[0] == "/":
        raise InputError(f"{path} names an image {name!r}, which is no file below {folder}.")
    return str(folder.joinpath(*parts))


def index_by(
    path: Path, rows: Sequence[Mapping[str, Any]], name: str
) -> dict[str, Mapping[str, Any]]:
    """Return rows by their ids, as text.

    Raises: as `list_ids`.
    """
    return dict(zip(list_ids(path, rows, name), rows, strict=True))


def _check_any(path: Path, rows: list[Any]) -> list[Any]:
    if not rows:
        raise InputError(f"{path} holds no question; download it again.")
    return rows


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, without a byte order mark.

    Raises: InputError: the file cannot be read, or is in another encoding.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8 ({error}); download it again.") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be read ({error.strerror or error}).")
