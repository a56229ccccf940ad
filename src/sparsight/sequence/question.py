"""Whether a prompt's words can rate its images: they must follow them, as attention only looks back. Host side."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sparsight.errors import PromptError, RaterWarning

TAIL = 6  # tokens at most that a template writes behind a question: "ASSISTANT:" is five and a line break


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
    configs = [base_config, getattr(base_config, "text_config", None), getattr(model, "generation_config", None)]
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


def check_questions(ids: torch.Tensor, visual: torch.Tensor, marks: Marks, rating: int | None) -> None:
    """Check that words follow the last image of every sample, so that they can rate it.

    Args:
        ids: (B, L) int64 on the host; negative ones are no part of the prompt.
        visual: (B, L) bool on the host.
        marks: ids that are no words.
        rating: how many tokens at the end of a prompt may rate; None for all behind its images.

    Raises: PromptError: nothing follows but what a template writes, such as the end of the turn and "assistant".
    Warns: RaterWarning: so little follows that it may be the template's alone, and more words stand before the image.
    """
    for index, (row, where) in enumerate(zip(ids, visual, strict=True)):
        slots = where.nonzero().flatten()
        if len(slots):
            last = int(slots[-1])
            text = [token for token in row[last + 1 :].tolist() if token >= 0]
            before = [token for token in row[:last].tolist() if token >= 0 and token not in marks.special]
            _check(index, before, text if rating is None else text[-rating:], marks)


def _check(index: int, before: Sequence[int], text: Sequence[int], marks: Marks) -> None:
    words = [token for token in text if token not in marks.special]
    ends = [place for place, token in enumerate(text) if token in marks.ends]
    if ends:
        asked = [token for token in text[: ends[-1]] if token not in marks.special]
        if asked or len(words) > TAIL:
            return
    elif len(words) > TAIL or len(before) <= len(words):
        return
    advice = "put the image before its question, or use a method that reads no question, such as Uniform"
    if not ends and words:
        warnings.warn(
            f"sample {index}: {len(words)} tokens follow the last image and {len(before)} stand before it. Only those "
            f"that follow can rate it: {advice}.",
            RaterWarning,
            stacklevel=2,
        )
        return
    what = "no words follow the last image, only what ends the turn" if text else "no text follows the last image"
    raise PromptError(f"sample {index}: {what}, and words before an image cannot rate it: {advice}.")
