"""Record: one question answered by one configuration, as one line of JSON."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

SHOWN = 60  # characters of a wrong field that are named
Recall = tuple[float, ...]  # one number per site


@dataclass(frozen=True)
class Record:
    """One question answered by one configuration.

    Args:
        configuration: its key.
        question: its id.
        family: of the question.
        split: of the question.
        answers: one per turn, as given.
        expected: one per turn.
        right: one per turn.
        visual_tokens: before pruning.
        mean_visual_tokens: layer mean of visual tokens that entered a layer.
        prefill_flops: of the decoder in the prefill with the images, choosing included; later turns
            not counted.
        dense_prefill_flops: the same had nothing been pruned.
        seconds: all of its generate() calls, image encoder included.
        sites: decoder layers on whose entry the sequence got shorter.
        recall: for each turn the share of its evidence tokens that left each site; None without
            evidence.
        recall_merged: the same, counting tokens that live on in a recycled one.
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

    def line(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


TEXTS, COUNTS = (
    ("configuration", "question", "family", "split"),
    ("visual_tokens", "prefill_flops", "dense_prefill_flops"),
)
NUMBERS = ("mean_visual_tokens", "seconds")
TURNS = ("answers", "expected", "right", "recall", "recall_merged")


def read_line(text: str) -> Record:
    """Read one line of JSON.

    Raises: ValueError: it is no record, or a field is of another kind than it is written with.
    """
    try:
        row: Any = json.loads(text)
    except RecursionError:
        raise ValueError("lists within lists without end") from None
    names = [field.name for field in fields(Record)]
    if not isinstance(row, dict) or sorted(row) != sorted(names):
        raise ValueError(f"not the fields {', '.join(names)}")
    wrong = next((name for name in names if not _fits(name, row)), None)
    if wrong is not None:
        raise ValueError(f"{wrong} cannot be {_shown(row[wrong])}")
    if len({len(row[name]) for name in TURNS}) > 1 or not row["answers"]:
        raise ValueError("answers and marks do not match")
    return Record(**{name: _frozen(value) for name, value in row.items()})


def _fits(name: str, row: dict[str, Any]) -> bool:
    """Tell whether a field holds what a record writes into it."""
    value = row[name]
    if name in COUNTS:
        return (
            _is_number(value)
            and isinstance(value, int)
            and (value > 0 or not name.endswith("flops"))
        )
    if name in NUMBERS:
        return _is_number(value)
    if name in TEXTS or not isinstance(value, list):
        return name in TEXTS and isinstance(value, str)
    if name in ("answers", "expected", "right"):
        return all(isinstance(part, bool if name == "right" else str) for part in value)
    if name == "sites":
        return (
            all(_is_number(part) and isinstance(part, int) for part in value)
            and sorted(set(value)) == value
        )
    return all(part is None or _is_recall(part, row["sites"]) for part in value)


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and 0 <= value < float("inf")
    )


def _is_recall(value: Any, sites: Any) -> bool:
    """Tell whether something is one share for each site."""
    if not isinstance(value, list) or not isinstance(sites, list) or len(value) != len(sites):
        return False
    return all(_is_number(part) and part <= 1 for part in value)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _frozen(value: Any) -> Any:
    return tuple(_frozen(part) for part in value) if isinstance(value, list) else value
