"""Whether a prompt's words can rate its images: they must follow them, as attention only looks back. Host side."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sparsight.errors import PromptError, RaterWarning

# tokens at most that a chat template writes
TAIL = 6  # behind a question: "ASSISTANT:" is five and a line break
MARKS = 2  # behind an image: the image's end, if the config does not name it, and a line break
HEAD = 4  # in front of an image: "user" and a line break, "USER:"


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


@dataclass(frozen=True)
class Wording:
    """What a prompt says around its last image, in tokens.

    Args:
        text: tokens behind the last image that may rate, special ones included.
        asked: words among them, up to the end of the last turn that ends there.
        behind: tokens behind that turn that are not special, as a template writes them.
        earlier: words in front of the image in the same turn.
        ends: whether a turn ends behind the image.
    """

    text: Sequence[int]
    asked: Sequence[int]
    behind: Sequence[int]
    earlier: Sequence[int]
    ends: bool


def check_questions(
    ids: torch.Tensor, visual: torch.Tensor, marks: Marks, rating: int | None
) -> None:
    """Check that words follow the last image of every sample, so that they can rate it.

    Args:
        ids: (B, L) int64 on the host; negative ones are no part of the prompt, as padding is not.
        visual: (B, L) bool on the host.
        marks: ids that are no words.
        rating: how many tokens at the end of a prompt may rate; None for all behind its images.

    Raises:
        PromptError: nothing follows but what a template writes, such as the end of the turn and
            "assistant".

    Warns:
        RaterWarning: so little follows that it may be the template's alone, and more words stand
            before the image in the same turn.
    """
    for index, (row, flags) in enumerate(zip(ids.tolist(), visual.tolist(), strict=True)):
        if True not in flags:
            continue
        last = len(flags) - 1 - flags[::-1].index(True)
        words = zip(row[:last], flags[:last], strict=True)
        before = [token for token, is_visual in words if token >= 0 and not is_visual]
        text = [token for token in row[last + 1 :] if token >= 0]
        _check(index, read_wording(before, text if rating is None else text[-rating:], marks))


def read_wording(before: Sequence[int], text: Sequence[int], marks: Marks) -> Wording:
    """Return what a prompt says around its last image.

    Args:
        before: tokens in front of the image, visual ones left out.
        text: tokens behind it that may rate.
        marks: ids that are no words.
    """
    ends = [place for place, token in enumerate(text) if token in marks.ends]
    turn = max((place + 1 for place, token in enumerate(before) if token in marks.ends), default=0)
    last_end = ends[-1] if ends else len(text)
    return Wording(
        text,
        asked=_words(text[:last_end], marks),
        behind=_words(text[last_end:], marks),
        earlier=_words(before[turn:], marks),
        ends=bool(ends),
    )


def _words(tokens: Sequence[int], marks: Marks) -> list[int]:
    return [token for token in tokens if token not in marks.special]


def _check(index: int, wording: Wording) -> None:
    advice = (
        "put the image before its question, or use a method that reads no question, such as Uniform"
    )
    if not wording.asked and len(wording.behind) <= TAIL:
        what = "no text follows the last image"
        if wording.text:
            what = "no words follow the last image, only what ends the turn"
        raise PromptError(
            f"sample {index}: {what}, and words before an image cannot rate it: {advice}."
        )
    # behind a plain template's words, or between an image and the end of a turn, there may be no
    # question
    few = len(wording.asked) <= (MARKS if wording.ends else TAIL)
    if few and len(wording.earlier) > max(len(wording.asked), HEAD) and _is_tail(wording.behind):
        warnings.warn(
            f"sample {index}: {len(wording.asked)} tokens follow the last image and "
            f"{len(wording.earlier)} stand before it. Only those that follow can rate it: "
            f"{advice}.",
            RaterWarning,
            stacklevel=2,
        )


def _is_tail(behind: Sequence[int]) -> bool:
    """Return whether so few tokens stand behind a turn that a template may have written them."""
    return len(behind) <= 2 * TAIL
