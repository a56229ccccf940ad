"""Writes answers to MMBench as the workbook that its server takes.

Source: LLaVA, script convert_mmbench_for_submission of release 1.5
    (https://github.com/haotian-liu/LLaVA), for the columns.
"""

import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sparsight.errors import InputError, SettingError, UnsupportedError
from sparsight.evaluate.tasks.answers import Replies, load_answers, name_file
from sparsight.evaluate.tasks.catalogue import MMBENCH
from sparsight.evaluate.tasks.choices import OPTIONS
from sparsight.evaluate.tasks.lines import Reply
from sparsight.evaluate.tasks.scores import read_run
from sparsight.evaluate.tasks.store import hash_run

COLUMNS = ("index", "question", *OPTIONS, "prediction", "answer")
LONGEST = 32767  # units of UTF-16 in a cell
NO_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in no workbook
NO_NAME = re.compile(r"[^A-Za-z0-9._@=-]+")  # what a file's name is better without


def export_mmbench(folder: Path, out: Path) -> tuple[list[Path], list[str]]:
    """Write a workbook for each configuration that has answered all of MMBench.

    Differs: the authors' script copies the column `split` too, and opens the data's file; here the
        folder of the answers is enough.

    Args:
        folder: of the evaluation.
        out: folder that is written to, which need not exist.

    Returns: the files, and notes for people on what is not in them.

    Raises:
        InputError: the folder holds no evaluation on benchmarks, no configuration is complete, the
            answers are of a version that kept no questions, or a file exists or cannot be written.
        SettingError: the evaluation is not on MMBench.
        UnsupportedError: the package that writes workbooks is missing.
    """
    check_extra()
    run = read_run(folder)
    if MMBENCH.name not in run["tasks"]:
        raise SettingError(f"--export writes answers to MMBench, and {folder} has none.")
    replies, cut = load_answers(folder, MMBENCH, hash_run(run), run["methods"], repair=False)
    wanted = run["tasks"][MMBENCH.name]["questions"]
    files, left_out = _find_complete(replies, run["methods"], wanted, out)
    notes = [*cut, *left_out]
    if not files:
        raise InputError(
            f"{folder} has no configuration that answered all {wanted} questions of MMBench: "
            f"{' '.join(notes)} Run the command with --tasks again, without --limit."
        )
    for file, own in files.items():
        _check_whole(name_file(folder, MMBENCH.name), own)
        notes += _write(file, own)
    return list(files), notes


def _find_complete(
    replies: Replies, keys: Iterable[str], wanted: int, out: Path
) -> tuple[dict[Path, list[Reply]], list[str]]:
    """Return the answers of configurations that gave all, by file, and notes on the others."""
    files: dict[Path, list[Reply]] = {}
    notes = []
    for key in keys:
        own = [reply for reply in replies.values() if reply.configuration == key]
        if len(own) == wanted:
            files[_name_file(out, key, files)] = own
        else:
            notes.append(f"{key} has answered {len(own)} of {wanted} questions, and is left out.")
    return files, notes


def check_extra() -> None:
    """Check that the package of the extra is here.

    Raises: UnsupportedError: it is missing.
    """
    if find_spec("openpyxl") is None:
        raise UnsupportedError(
            "MMBench's server takes workbooks, and the package openpyxl that writes them is not "
            'installed here; run: pip install "sparsight[xlsx]"'
        )


def _name_file(out: Path, key: str, taken: dict[Path, list[Reply]]) -> Path:
    """Return the file of a configuration.

    Raises: InputError: it exists, or two configurations would have the same one.
    """
    file = out / f"mmbench-{NO_NAME.sub('-', key)}.xlsx"
    if file.exists() or file in taken:
        raise InputError(f"{file} exists; give another folder to --export.")
    return file


def _check_whole(path: Path, replies: Sequence[Reply]) -> None:
    """Raise InputError if an answer does not hold its question."""
    bare = [reply.id for reply in replies if not reply.question]
    if bare:
        raise InputError(
            f"{path} was written by an earlier version, which kept no questions ({bare[0]} has "
            "none); run the command with --tasks again in another --out."
        )


def _write(file: Path, replies: Sequence[Reply]) -> list[str]:
    """Write a workbook whole or not at all, and return notes for people."""
    from openpyxl import Workbook  # noqa: PLC0415

    book = Workbook()
    sheet = book.active
    changed = 0
    for column, name in enumerate(COLUMNS, 1):
        sheet.cell(1, column, name)
    for row, reply in enumerate(sorted(replies, key=_find_index), 2):
        for column, value in enumerate(_list_cells(reply), 1):
            if isinstance(value, str):
                plain = _fit_cell(value)
                changed += plain != value
                # a text that begins with = would be a formula
                sheet.cell(row, column, plain).data_type = "s"
            else:
                sheet.cell(row, column, value)
    new = file.with_name(file.name + ".new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        book.save(new)
        new.replace(file)
    except OSError as error:
        raise InputError(
            f"{file} cannot be written ({error.strerror or error}); give another folder to "
            "--export."
        ) from error
    what = f"{file}: {changed} cells have lost control characters or their end, to fit a workbook."
    return [what] if changed else []


def _fit_cell(text: str) -> str:
    """Return a text without characters that no workbook may hold, and without a too long end."""
    return NO_XML.sub("", text).encode("utf-16-le")[: 2 * LONGEST].decode("utf-16-le", "ignore")


def _find_index(reply: Reply) -> int:
    return int(reply.id)


def _list_cells(reply: Reply) -> list[Any]:
    """Return the cells of a row, None for options that a question has not."""
    options = [reply.target["options"].get(letter) for letter in OPTIONS]
    return [
        int(reply.id),
        reply.question,
        *options,
        reply.prediction,
        reply.target["answer"],
    ]
