"""Rows of a job: what is asked about which images, read from a CSV or JSONL file or a folder.

A row that cannot be asked keeps its place and carries the fault that becomes its error. A file that
cannot be read as a table at all is refused before any work.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

from sparsight.errors import InputError
from sparsight.images import find_source_file, name_source
from sparsight.needs import check_package
from sparsight.serve.batch.media import find_page
from sparsight.serve.batch.tables import READERS, Found, Unread, list_folder
from sparsight.videos import is_video

IMAGE_COLUMNS = ("image", "images")


@dataclass(frozen=True)
class Row:
    """One question.

    Args:
        number: of the row in the inputs, from 1.
        id: that finds it in the output, unique in a job.
        images: their paths or URLs, as given.
        question: about them.
        fault: why it cannot be asked; None if it can be.
        in_folder: whether the images are files in the folder of the inputs, whatever their names
            look like.
    """

    number: int
    id: str
    images: tuple[str, ...]
    question: str
    fault: str | None = None
    in_folder: bool = False


@dataclass(frozen=True)
class Inputs:
    """All rows of a job.

    Args:
        rows: in order.
        base: folder that relative paths of images start from.
        sha256: of all rows, and of the sizes of their images' files.
        notes: for people, on what was left out.
    """

    rows: tuple[Row, ...]
    base: Path
    sha256: str
    notes: tuple[str, ...] = ()


def read_inputs(path: Path, question: str | None) -> Inputs:
    """Return the rows of a table or folder.

    Args:
        path: of a .csv or .jsonl file, or of a folder.
        question: asked in every row; None where each row has its own.

    Raises:
        InputError: the inputs cannot be read, are of another kind, hold no row, hold an id twice,
            lack a column, or there is a question both in the rows and for all of them, or nowhere.
        UnsupportedError: a package that reads a PDF or a video is not installed.
    """
    if question is not None and not question.strip():
        raise InputError("--question is empty; its words decide what is kept.")
    _check_there(path)
    notes: tuple[str, ...] = ()
    if path.is_dir():
        if question is None:
            raise InputError(f"{path} is a folder of images; give one --question for all of them.")
        found, notes = list_folder(path)
        base = path.absolute()
    else:
        found = _read_table(path)
        base = path.parent.absolute()
    read = [make_row(number, one, question) for number, one in enumerate(found, 1)]
    if not read:
        raise InputError(f"{path} holds no row to answer.")
    _check_ids(read)
    rows = _give_ids(read)
    if path.is_dir():
        rows = tuple(replace(row, in_folder=True) for row in rows)
    _check_packages(rows, base)
    return Inputs(rows, base, hash_rows(rows, question, base), notes)


def _check_there(path: Path) -> None:
    """Raise InputError if there is neither a file nor a folder."""
    try:
        there = path.exists()
    except (OSError, ValueError) as error:  # a name that is too long, or a folder that is closed
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{str(path)[:40]} cannot be looked up ({reason}).") from None
    if not there:
        raise InputError(f"{path}: no such file or folder.")


def _read_table(path: Path) -> list[Found]:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path} is of no known kind; give a file that ends in {', '.join(READERS)}, "
            "or a folder of images."
        )
    if not path.is_file():
        raise InputError(f"{path} is no regular file; give a table or a folder of images.")
    try:
        return reader(path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8 ({error}); save it as UTF-8.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}).") from None


def make_row(number: int, found: Found, common: str | None) -> Row:
    """Return a row; what is wrong with it becomes its fault. Its id is "" where it has none.

    Args:
        number: of the row, from 1.
        found: its columns; or text that says why they could not be read.
        common: question of all rows, or None.

    Raises: InputError: the row has a question, and so have all rows together.
    """
    if isinstance(found, str):
        return Row(number, "", (), common or "", found)
    faults: list[str] = []
    given = found.get("question")
    if common is not None and given not in (None, ""):
        raise InputError(
            f"row {number} has a question of its own, and --question is one for all; "
            "leave --question or the column out."
        )
    question = _read_question(given if common is None else common, faults)
    images = _read_images(found, faults)
    identity = _read_id(found.get("id"), faults)
    return Row(number, identity, images, question, " ".join(faults) or None)


def _read_question(value: Any, faults: list[str]) -> str:
    if value is None or value == "":
        faults.append("the row has no question.")
        return ""
    if not isinstance(value, str):
        faults.append(f"the question is of type {type(value).__name__}; give text.")
        return ""
    if not value.strip():
        faults.append("the question is empty; its words decide what is kept.")
    if clean(value) != value:
        faults.append("the question is no valid Unicode.")
    return clean(value)


def _read_images(found: Mapping[str, Any], faults: list[str]) -> tuple[str, ...]:
    given = [found[name] for name in IMAGE_COLUMNS if found.get(name) not in (None, "", [])]
    if len(given) != 1:
        faults.append("the row has no image." if not given else "the row has image and images.")
        return ()
    if isinstance(given[0], Unread):
        faults.append(given[0].reason)
        return ()
    names = given[0] if isinstance(given[0], list) else [given[0]]
    if not all(isinstance(name, str) and name for name in names):
        faults.append("an image is given by no text; give its path, or a list of paths.")
        return ()
    return tuple(names)


def _read_id(value: Any, faults: list[str]) -> str:
    """Return the id of a row; "" where it has none, or none that can be used."""
    if value is None or value == "":
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        faults.append(f"the id is of type {type(value).__name__}; give text or a whole number.")
        return ""
    return clean(str(value))


def clean(text: str) -> str:
    """Return a text that UTF-8 can hold; lone surrogates are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def show(name: str) -> str:
    """Return how an image is named in the output."""
    return clean(name_source(name))


def _check_ids(rows: Iterable[Row]) -> None:
    first: dict[str, int] = {}
    for row in rows:
        if row.id and row.id in first:
            raise InputError(
                f"id {row.id!r} stands in rows {first[row.id]} and {row.number}; "
                "give each row an id of its own, or no row any."
            )
        first[row.id] = row.number


def _give_ids(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return the rows, those without an id under their number or a name that no other row has."""
    given = {row.id for row in rows}
    return tuple(row if row.id else replace(row, id=_find_id(row.number, given)) for row in rows)


def _find_id(number: int, given: Set[str]) -> str:
    """Return "3" for row 3; where that is given to another row, "row 3", "row 3 (2)" and so on."""
    names = chain((str(number), f"row {number}"), (f"row {number} ({more})" for more in count(2)))
    return next(name for name in names if name not in given)


def _check_packages(rows: Iterable[Row], base: Path) -> None:
    """Check that what reads PDFs and videos is installed, if there are any."""
    checked: set[str] = set()
    for row in rows:
        for name, source in zip(row.images, locate_images(row, base), strict=True):
            package = "pypdfium2" if find_page(source) else "av" if is_video(source) else ""
            if package and package not in checked:
                check_package(package, f"{show(name)} of row {row.number}")
                checked.add(package)


def locate_images(row: Row, base: Path) -> list[str]:
    """Return the paths and URLs of a row's images.

    Args:
        row: that names them.
        base: folder of the inputs, an absolute path.
    """
    if row.in_folder:
        return [str(base / name) for name in row.images]
    return [locate(name, base) for name in row.images]


def locate(name: str, base: Path) -> str:
    """Return the path or URL of an image; a relative path starts from the folder of the inputs."""
    try:
        source = find_source_file(name)
    except InputError:
        return name  # reading it says what is wrong
    if source is None or source.is_absolute() or name.startswith(("~", "file:")):
        return name
    return str(base / name)


def hash_rows(rows: Iterable[Row], question: str | None, base: Path) -> str:
    """Return the SHA-256 of rows and of the sizes of their images' files.

    The question that all rows have in common is left out; a job names it beside the hash.
    """
    digest = hashlib.sha256()
    for row in rows:
        own = row.question if question is None else None
        sizes = list(map(_read_size, locate_images(row, base)))
        digest.update(json.dumps([row.id, row.images, own, row.fault, sizes]).encode() + b"\n")
    return digest.hexdigest()


def _read_size(source: str) -> int | None:
    """Return the size of an image's file, B; None where there is none, or it cannot be found."""
    page = find_page(source)
    try:
        path = find_source_file(page.file if page else source)
        return None if path is None else path.stat().st_size
    except (OSError, ValueError):  # InputError is a ValueError
        return None
