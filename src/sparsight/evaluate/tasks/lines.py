"""Files of one JSON object a line, which grow while an evaluation runs and may end half-written."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sparsight.errors import InputError

NUMBERS = (int, float)


@dataclass(frozen=True)
class Reply:
    """One question of a benchmark, answered under one configuration.

    Args:
        run: hash of what the evaluation is of; see `store`.
        configuration: key of the configuration.
        id: of the question.
        part: of the benchmark.
        group: questions that count together have the same one.
        question: without context and instruction; "" where neither judge nor export needs it.
        target: what the answer is compared with.
        prediction: the model's answer.
        prompt: hash of the text that was asked.
        visual_tokens: before pruning.
        mean_visual_tokens: visual tokens that entered a decoder layer, mean over layers.
        mean_visual_tokens_authors: the same, as the authors of SparseVLM count.
        prefill_flops: of the decoder, choosing included.
        dense_prefill_flops: of the decoder, had nothing been pruned.
        seconds: of generate(), image encoder included, divided by the questions of the batch.
        kinds: of the question; lines of earlier versions have none.
    """

    run: str
    configuration: str
    id: str
    part: str
    group: str
    question: str
    target: Any
    prediction: str
    prompt: str
    visual_tokens: int
    mean_visual_tokens: float
    mean_visual_tokens_authors: float
    prefill_flops: int
    dense_prefill_flops: int
    seconds: float
    kinds: tuple[str, ...] = ()

    @property
    def pair(self) -> tuple[str, str]:
        """Configuration and question."""
        return self.configuration, self.id


NAMES = tuple(field.name for field in fields(Reply))
TEXTS = ("run", "configuration", "id", "part", "group", "question", "prediction", "prompt")
COUNTS = tuple(name for name in NAMES if name not in (*TEXTS, "target", "kinds"))


def read_reply(row: Mapping[str, Any]) -> Reply:
    """Return the reply of one line.

    Raises: ValueError: the line is no reply, or a field is of another kind.
    """
    row = {"kinds": [], **row}
    if sorted(row) != sorted(NAMES):
        raise ValueError(f"not the fields {', '.join(NAMES)}")
    for name in TEXTS:
        if not isinstance(row[name], str):
            raise ValueError(f"{name} is no text")
    for name in COUNTS:
        value = row[name]
        if isinstance(value, bool) or not isinstance(value, NUMBERS):
            raise ValueError(f"{name} is no number")
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} is out of range")
    kinds = row["kinds"]
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise ValueError("kinds is no list of texts")
    return Reply(**{**row, "kinds": tuple(kinds)})


def write_reply(reply: Reply) -> dict[str, Any]:
    """Return a reply as a row of JSON."""
    return asdict(reply)


def format_row(row: Mapping[str, Any]) -> str:
    """Return a row as the line of a file."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def append_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows behind those that a file holds, through to the disk.

    Raises: InputError: the file cannot be written.
    """
    text = "".join(map(format_row, rows))
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}); answers before it are kept."
        ) from error


def load_rows(path: Path, *, repair: bool) -> tuple[list[dict[str, Any]], str | None]:
    """Return the rows of a file, and a note for people if its last one was half-written.

    Args:
        path: of the file, which need not exist.
        repair: whether a half-written last line is cut off the file; it is left out anyway.

    Raises: InputError: a line is damaged, or the file cannot be read.
    """
    if not path.exists():
        return [], None
    try:
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        rows = [_parse(path, number, line) for number, line in _split(data[:whole])]
        if whole == len(data):
            return rows, None
        if repair:
            os.truncate(path, whole)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}).") from error
    size = f"{len(data) - whole} bytes"
    if repair:
        return rows, (
            f"the last line of {path} was half-written: its {size} were dropped, and it is asked "
            "again."
        )
    return rows, (
        f"the last line of {path} is half-written: its {size} are left out, and stay in the file; "
        "the command with --tasks asks it again."
    )


def _split(data: bytes) -> list[tuple[int, bytes]]:
    return list(enumerate(data.split(b"\n")[:-1], 1))


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
        if isinstance(row, dict):
            return row
        raise ValueError("no JSON object")
    except (ValueError, RecursionError) as error:
        raise build_damage_error(path, number, error) from error


def build_damage_error(path: Path, number: int, why: object) -> InputError:
    """Return the error of a line that cannot be used."""
    return InputError(
        f"{path}: line {number} is damaged ({why}); "
        "take it out to have it asked again, or change --out."
    )
