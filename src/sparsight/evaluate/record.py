"""One question answered by one configuration, written as one line of JSON."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

SHOWN = 60  # characters of a wrong field that an error shows
Recall = tuple[float, ...]  # one number per site


@dataclass(frozen=True)
class Record:
    """One question answered by one configuration.

    Args:
        configuration: key of the configuration.
        question: id of the question.
        family: of the question.
        split: of the question.
        answers: one per turn.
        expected: one per turn.
        right: one per turn.
        visual_tokens: before pruning.
        mean_visual_tokens: visual tokens that entered a decoder layer, mean over layers.
        prefill_flops: of the decoder in the first turn's prefill, choosing tokens included.
        dense_prefill_flops: of the decoder in that prefill, had nothing been pruned.
        seconds: of all generate() calls, image encoder included.
        sites: decoder layers at whose input the sequence got shorter.
        recall: for each turn and site, the fraction of the evidence tokens that are present behind
            the site; None for a turn without evidence.
        recall_merged: as `recall`, and counting evidence tokens that were merged into a recycled
            token that is present.
    """

    configuration: str
    question: str
    family: str
    split: str
    answers: tuple[str, ...]
    expected: tuple[str, ...]
    right: tuple[bool, ...]
    visual_tokens: int
    mean_visual_tokens: float
    prefill_flops: int
    dense_prefill_flops: int
    seconds: float
    sites: tuple[int, ...]
    recall: tuple[Recall | None, ...]
    recall_merged: tuple[Recall | None, ...]

    @property
    def pair(self) -> tuple[str, str]:
        """Configuration and question."""
        return self.configuration, self.question

    def to_line(self) -> str:
        """Return the record as one line of JSON, with the line break."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


TEXTS = ("configuration", "question", "family", "split")
COUNTS = ("visual_tokens", "prefill_flops", "dense_prefill_flops")
POSITIVE = ("prefill_flops", "dense_prefill_flops")
NUMBERS = ("mean_visual_tokens", "seconds")
TURNS = ("answers", "expected", "right", "recall", "recall_merged")


def read_line(text: str) -> Record:
    """Return the record of one line of JSON.

    Raises:
        ValueError: the line is no record, or a field is of another kind than records write.
    """
    try:
        row: Any = json.loads(text)
    except RecursionError:
        raise ValueError("lists within lists without end") from None
    names = [field.name for field in fields(Record)]
    if not isinstance(row, dict) or sorted(row) != sorted(names):
        raise ValueError(f"not the fields {', '.join(names)}")
    for name in names:
        if not _is_valid(name, row[name], row["sites"]):
            raise ValueError(f"{name} cannot be {_shorten(row[name])}")
    if len({len(row[name]) for name in TURNS}) > 1 or not row["answers"]:
        raise ValueError("answers and marks do not match")
    return Record(**{name: _freeze(value) for name, value in row.items()})


def _is_valid(name: str, value: Any, sites: Any) -> bool:
    """Return whether a field holds what a record writes into it."""
    if name in TEXTS:
        return isinstance(value, str)
    if name in COUNTS:
        return _is_count(value) and (value > 0 or name not in POSITIVE)
    if name in NUMBERS:
        return _is_number(value)
    return isinstance(value, list) and _is_valid_list(name, value, sites)


def _is_valid_list(name: str, value: list[Any], sites: Any) -> bool:
    if name == "sites":
        return all(map(_is_count, value)) and sorted(set(value)) == value
    if name in ("recall", "recall_merged"):
        return all(part is None or _is_recall(part, sites) for part in value)
    return all(isinstance(part, bool if name == "right" else str) for part in value)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 <= value < float("inf")


def _is_count(value: Any) -> bool:
    return _is_number(value) and isinstance(value, int)


def _is_recall(value: Any, sites: Any) -> bool:
    """Return whether a value is a list of one fraction for each site."""
    if not isinstance(value, list) or not isinstance(sites, list) or len(value) != len(sites):
        return False
    return all(_is_number(part) and part <= 1 for part in value)


def _shorten(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _freeze(value: Any) -> Any:
    """Return a value with tuples in place of lists."""
    return tuple(map(_freeze, value)) if isinstance(value, list) else value
