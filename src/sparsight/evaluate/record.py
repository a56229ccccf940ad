"""Record: one question answered by one configuration, as one line of JSON."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

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
        prefill_flops: of the decoder in the prefill with the images, choosing included; later turns not counted.
        dense_prefill_flops: the same had nothing been pruned.
        seconds: all of its generate() calls, image encoder included.
        sites: decoder layers on whose entry the sequence got shorter.
        recall: for each turn the share of its evidence tokens that left each site; None without evidence.
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


LISTS = ("answers", "expected", "right", "sites", "recall", "recall_merged")


def read_line(text: str) -> Record:
    """Read one line of JSON.

    Raises: ValueError: it is no record.
    """
    row: Any = json.loads(text)
    names = [field.name for field in fields(Record)]
    if not isinstance(row, dict) or sorted(row) != sorted(names):
        raise ValueError(f"not the fields {', '.join(names)}")
    turns = [row[name] for name in LISTS]
    if not all(isinstance(turn, list) for turn in turns) or not len(row["answers"]) == len(row["right"]) > 0:
        raise ValueError("answers and marks do not match")
    return Record(**{name: _frozen(value) for name, value in row.items()})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(part) for part in value) if isinstance(value, list) else value
