"""Whether a prompt's words can rate its images: they must follow them, as attention only looks back. Host side."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sparsight.errors import PromptError, RaterWarning

TAIL = 6  # tokens at most that a template writes behind a question: "ASSISTANT:" is five and a line break
MARKS = 2  # that it writes behind an image: the image's end, if the config does not name it, and a line break
HEAD = 4  # that it writes in front of one: "user" and a line break, "USER:"


@dataclass(frozen=True)
class Marks:
    """Token ids that are no words.

    Args:
        special: ids that the model's config names, such as the end of an image.
        ends: those of them that end a turn.
    """

    special: frozenset[int]
    ends: frozenset[int]


def read_marks(model: Any, base_config: Any) -> Marks:
    """Read from a model's configs which token ids are no words."""
    configs = [
        base_config,
        getattr(base_config, "text_config", None),
        getattr(model, "generation_config", None),
    ]
    special, ends = set(), set()
    for config in (config for config in configs if config is not None):
        for name, value in vars(config).items():
            if name.endswith(("_token_id", "_token_index")):
                special |= {*_ids(value)}
        ends |= {*_ids(getattr(config, "eos_token_id", None))}
    return Marks(frozenset(special), frozenset(ends))


def _ids(value: object) -> Iterator[int]:
    for part in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(part, int):
            yield part


def check_questions(
    ids: torch.Tensor, visual: torch.Tensor, marks: Marks, rating: int | None
) -> None:
    """Check that words follow the last image of every sample, so that they can rate it.

    Args:
        ids: (B, L) int64 on the host; negative ones are no part of the prompt, as padding is not.
        visual: (B, L) bool on the host.
        marks: ids that are no words.
        rating: how many tokens at the end of a prompt may rate; None for all behind its images.

    Raises: PromptError: nothing follows but what a template writes, such as the end of the turn and
    "assistant".
    Warns: RaterWarning: so little follows that it may be the template's alone, and more words stand
    before the image in
        the same turn.
    """
    for index, (row, where) in enumerate(zip(ids.tolist(), visual, strict=True)):
        slots = where.nonzero().flatten()
        if len(slots):
            last = int(slots[-1])
            before = [
                token
                for place, token in enumerate(row[:last])
                if token >= 0 and not bool(where[place])
            ]
            text = [token for token in row[last + 1 :] if token >= 0]
            _check(index, before, text if rating is None else text[-rating:], marks)


def _check(index: int, before: Sequence[int], text: Sequence[int], marks: Marks) -> None:
    ends = [place for place, token in enumerate(text) if token in marks.ends]
    asked = [token for token in text[: ends[-1] if ends else None] if token not in marks.special]
    behind = [token for token in text[ends[-1] :] if token not in marks.special] if ends else []
    turn = max((place + 1 for place, token in enumerate(before) if token in marks.ends), default=0)
    earlier = [token for token in before[turn:] if token not in marks.special]
    advice = (
        "put the image before its question, or use a method that reads no question, such as Uniform"
    )
    if not asked and len(behind) <= TAIL:
        what = (
            "no words follow the last image, only what ends the turn"
            if text
            else "no text follows the last image"
        )
        raise PromptError(
            f"sample {index}: {what}, and words before an image cannot rate it: {advice}."
        )
    # behind a plain template's words, or between an image and the end of a turn, there may be no
    # question
    few = len(asked) <= (MARKS if ends else TAIL) and len(earlier) > max(len(asked), HEAD)
    if few and len(behind) <= 2 * TAIL:
        warnings.warn(
            f"sample {index}: {len(asked)} tokens follow the last image and {len(earlier)} stand before it. Only those "
            f"that follow can rate it: {advice}.",
            RaterWarning,
            stacklevel=2,
        )
