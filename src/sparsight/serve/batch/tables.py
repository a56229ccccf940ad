"""Reads tables of rows (CSV, JSONL), and lists a folder of images, pages and videos as rows."""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsight.errors import InputError
from sparsight.serve.batch.media import PICTURES, count_pages, find_page
from sparsight.videos import is_video

# the columns of a row, or why they could not be read
Found = Mapping[str, Any] | str

KNOWN = ("id", "image", "images", "question")
LONGEST_CELL = 100_000_000  # characters; an image may stand in a cell as a data: URL


@dataclass(frozen=True)
class Unread:
    """Stands for the value of a column, and says why it could not be read."""

    reason: str


def read_csv(path: Path) -> list[Found]:
    """Return the rows of a CSV file with a head; several images of a cell stand between ";".

    Raises: InputError: the head lacks a column, or names one twice; or quotes are set so that it
        cannot be told where rows end.
    """
    limit = csv.field_size_limit(LONGEST_CELL)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = _read_lines(path, file)
            head = next(lines, None)
            if head is None:
                raise InputError(f"{path} has no head; name its columns in the first line.")
            columns = [name.strip() for name in head]
            _check_columns(path, columns)
            return [_read_cells(columns, line) for line in lines if line]
    finally:
        csv.field_size_limit(limit)


def _read_lines(path: Path, file: Iterable[str]) -> Iterator[list[str]]:
    """Yield the cells of each row.

    Raises: InputError: a row is no CSV; the rows that follow it could begin anywhere.
    """
    reader = csv.reader(file, strict=True)
    while True:
        first = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(
                f"{path}: the row that begins in line {first} is no CSV (line {reader.line_num}: "
                f"{error}). Put a cell with quotes, commas or line ends in double quotes, and "
                "double each quote inside it."
            ) from None
        yield cells


def _check_columns(path: Path, columns: list[str]) -> None:
    for name in KNOWN:
        if columns.count(name) > 1:
            raise InputError(f"{path} has two columns {name}; leave one.")
    if ("image" in columns) == ("images" in columns):
        raise InputError(
            f"{path} needs one column image or images; its columns are {', '.join(columns)}."
        )


def _read_cells(columns: list[str], cells: list[str]) -> Found:
    if len(cells) != len(columns):
        return f"the row has {len(cells)} cells, but the head names {len(columns)} columns."
    row: dict[str, Any] = dict(zip(columns, cells, strict=True))
    if row.get("images"):
        row["images"] = _split_images(row["images"])
    return row


def _split_images(cell: str) -> list[str] | Unread:
    """Return the images of a cell; a data: URL holds ";" itself, and must stand alone."""
    names = [name.strip() for name in cell.split(";") if name.strip()]
    if not any(name.lower().startswith("data:") for name in names):
        return names
    url = cell.strip("; \t\r\n")
    head, _, data = url.partition(",")
    if head.lower().startswith("data:") and ";" not in data:
        return [url]
    return Unread(
        "the column images holds a data: URL and other images, which cannot be told apart; "
        "give such rows as .jsonl, where images is a list."
    )


def read_jsonl(path: Path) -> list[Found]:
    """Return the rows of a file that holds one JSON object a line."""
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        return [_read_object(line) for line in file if line.strip()]


def _read_object(line: str) -> Found:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"the row is no JSON ({error})."
    if not isinstance(value, dict):
        return f"the row is a JSON value of type {type(value).__name__}; give an object."
    return value


READERS: Mapping[str, Callable[[Path], list[Found]]] = {".csv": read_csv, ".jsonl": read_jsonl}


def list_folder(folder: Path) -> tuple[list[Found], tuple[str, ...]]:
    """Return a row for each image, page of a PDF and video below a folder, and notes for people.

    The id of a row is its path in the folder. Hidden files and folders are left out, and so are
    folders that are links, which may lead back to where they stand.

    Raises:
        InputError: the folder cannot be read.
        UnsupportedError: it holds a PDF, and the package that reads PDFs is not installed.
    """
    found: list[Found] = []
    others = 0
    names, links = _walk(folder)
    for name in sorted(names):
        inside = f"./{name}"  # a name such as data:a.pdf is no URL here
        if find_page(inside):
            found += [{"id": page, "image": page} for page in count_pages(name, folder)]
        elif name.lower().endswith(PICTURES) or is_video(inside):
            found.append({"id": name, "image": name})
        else:
            others += 1
    notes: list[str] = []
    if others:
        notes.append(f"{others} files of {folder} are no images, PDFs or videos, and are left out.")
    if links:
        notes.append(
            f"{links} folders in {folder} are links, and are left out; "
            "run each of them, or put the folder itself there."
        )
    return found, tuple(notes)


def _walk(folder: Path) -> tuple[list[str], int]:
    """Return the paths of all files that are not hidden, and how many folders are links."""

    def fail(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}).") from error

    found: list[str] = []
    links = 0
    for place, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links += sum((Path(place) / name).is_symlink() for name in folders)
        found += [
            (Path(place) / name).relative_to(folder).as_posix()
            for name in files
            if not name.startswith(".")
        ]
    return found, links
