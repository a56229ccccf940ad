"""One line of the output: the answer to a row, or why there is none."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from sparsight.serve.batch.rows import Row, clean, show


@dataclass(frozen=True)
class Record:
    """What became of a row.

    Args:
        row: its number in the inputs, from 1.
        id: of the row.
        images: as named in the inputs; of a data: URL its start.
        question: that was asked.
        answer: of the model; None where there is an error.
        visual_tokens: of the prompt, before pruning; None where there is an error.
        visual_tokens_entering: of them, that entered a decoder layer on average.
        prefill_flops_share: FLOPs of the prefill, as a share of those of the dense model.
        error: why there is no answer; None where there is one.
        note: on what was ignored of an image, such as all frames but one; None for nothing.
    """

    row: int
    id: str
    images: list[str]
    question: str
    answer: str | None = None
    visual_tokens: int | None = None
    visual_tokens_entering: float | None = None
    prefill_flops_share: float | None = None
    error: str | None = None
    note: str | None = None

    def to_line(self) -> str:
        """Return the record as one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


@dataclass
class Totals:
    """Sums over rows.

    Args:
        rows: that have a record.
        errors: of them, without an answer.
        visual_tokens: of the answered ones, before pruning.
        visual_tokens_entering: of them, that entered a decoder layer on average.
    """

    rows: int = 0
    errors: int = 0
    visual_tokens: int = 0
    visual_tokens_entering: float = 0.0

    def add(self, record: Record) -> None:
        """Count a record."""
        self.rows += 1
        self.errors += record.error is not None
        self.visual_tokens += record.visual_tokens or 0
        self.visual_tokens_entering += record.visual_tokens_entering or 0.0


# the types of values, as JSON has them
TYPES: dict[str, tuple[type, ...]] = {
    "row": (int,),
    "id": (str,),
    "images": (list,),
    "question": (str,),
    "answer": (str, type(None)),
    "visual_tokens": (int, type(None)),
    "visual_tokens_entering": (int, float, type(None)),
    "prefill_flops_share": (int, float, type(None)),
    "error": (str, type(None)),
    "note": (str, type(None)),
}


def fail(row: Row, error: str) -> Record:
    """Return the record of a row that could not be answered."""
    return _start(row, error=clean(error))


def succeed(row: Row, **values: Any) -> Record:
    """Return the record of a row that was answered."""
    return _start(row, **values)


def _start(row: Row, **values: Any) -> Record:
    return Record(row.number, row.id, [show(name) for name in row.images], row.question, **values)


def read_record(line: str) -> Record:
    """Return the record of a line.

    Raises: ValueError: the line is no record.
    """
    value = json.loads(line)
    if not isinstance(value, dict) or set(value) != {field.name for field in fields(Record)}:
        raise ValueError("it has other fields than a row of answers")
    for name, types in TYPES.items():
        if type(value[name]) not in types:
            raise ValueError(f"{name} is of type {type(value[name]).__name__}")
    return Record(**value)
