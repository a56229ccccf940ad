"""Checks that each prompt has a question behind its images, which can rate them.

Attention only looks back, so tokens in front of an image cannot rate it. All tensors are on the
host. Private details of transformers touched here: `eos_token_id`, and that fields of configs that
hold token ids end in `_token_id` or `_token_index`.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sparsight.errors import PromptError, RaterWarning

# how many tokens that are not special a chat template writes at most
BEHIND_QUESTION = 6  # "ASSISTANT:" is five tokens, and a line break
BEHIND_IMAGE = 2  # the end of the image, if the config does not name it, and a line break
BEFORE_IMAGE = 4  # "user" and a line break, or "USER:"


@dataclass(frozen=True)
class SpecialIds:
    """Token ids that are not words.

    Args:
        special: ids that the model's configs name, such as the end of an image.
        ends: the special ids that end a turn.
    """

    special: frozenset[int]
    ends: frozenset[int]


def read_special_ids(model: Any, base_config: Any) -> SpecialIds:
    """Return the token ids that a model's configs name, which are not words."""
    configs = [
        base_config,
        getattr(base_config, "text_config", None),
        getattr(model, "generation_config", None),
    ]
    special, ends = set(), set()
    for config in configs:
        if config is None:
            continue
        for name, value in vars(config).items():
            if name.endswith(("_token_id", "_token_index")):
                special |= {*_iterate_ids(value)}
        ends |= {*_iterate_ids(getattr(config, "eos_token_id", None))}
    return SpecialIds(frozenset(special), frozenset(ends))


def _iterate_ids(value: object) -> Iterator[int]:
    """Yield the token ids in a field of a config, which holds one id, several or none."""
    for part in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(part, int):
            yield part


@dataclass(frozen=True)
class Wording:
    """The tokens around the last image of a prompt. Words are tokens that are not special.

    Args:
        text: tokens behind the image that may rate, special ones included.
        asked: words behind the image, up to the end of the last turn; all if no turn ends there.
        behind: words behind the end of that turn, which a chat template writes.
        earlier: words in front of the image, in its turn.
        ends: whether a turn ends behind the image.
    """

    text: Sequence[int]
    asked: Sequence[int]
    behind: Sequence[int]
    earlier: Sequence[int]
    ends: bool


def check_questions(
    ids: torch.Tensor, visual: torch.Tensor, special_ids: SpecialIds, rating: int | None
) -> None:
    """Check that words follow the last image of every sample, so that they can rate it.

    Args:
        ids: (B, L) int64 on the host; negative ids, such as those of padding, are no part of the
            prompt.
        visual: (B, L) bool on the host.
        special_ids: ids that are not words.
        rating: how many tokens at the end of a prompt may rate; None for all behind its images.

    Raises:
        PromptError: nothing follows the image but what a chat template writes, such as the end of
            the turn and "assistant".

    Warns:
        RaterWarning: so few words follow the image that a chat template may have written them all,
            and more words stand before the image in its turn.
    """
    for index, (row, flags) in enumerate(zip(ids.tolist(), visual.tolist(), strict=True)):
        if True not in flags:
            continue
        last = len(flags) - 1 - flags[::-1].index(True)
        in_front = zip(row[:last], flags[:last], strict=True)
        before = [token for token, is_visual in in_front if token >= 0 and not is_visual]
        text = [token for token in row[last + 1 :] if token >= 0]
        if rating is not None:
            text = text[-rating:]
        _check_wording(index, read_wording(before, text, special_ids))


def read_wording(before: Sequence[int], text: Sequence[int], special_ids: SpecialIds) -> Wording:
    """Return the words around the last image of a prompt.

    Args:
        before: tokens in front of the image, visual ones left out.
        text: tokens behind the image that may rate.
        special_ids: ids that are not words.
    """
    ends = [index for index, token in enumerate(text) if token in special_ids.ends]
    last_end = ends[-1] if ends else len(text)
    ends_before = [index for index, token in enumerate(before) if token in special_ids.ends]
    turn = ends_before[-1] + 1 if ends_before else 0  # where the turn of the image starts
    return Wording(
        text,
        asked=_select_words(text[:last_end], special_ids),
        behind=_select_words(text[last_end:], special_ids),
        earlier=_select_words(before[turn:], special_ids),
        ends=bool(ends),
    )


def _select_words(tokens: Sequence[int], special_ids: SpecialIds) -> list[int]:
    return [token for token in tokens if token not in special_ids.special]


def _check_wording(index: int, wording: Wording) -> None:
    """Raise or warn if sample `index` has no words behind its last image, or few."""
    advice = (
        "put the image before its question, or use a method that reads no question, such as Uniform"
    )
    if not wording.asked and len(wording.behind) <= BEHIND_QUESTION:
        what = "no text follows the last image"
        if wording.text:
            what = "no words follow the last image, only what ends the turn"
        raise PromptError(
            f"sample {index}: {what}, and words before an image cannot rate it: {advice}."
        )
    # The words behind an image are those of a template and perhaps a question. If a turn ends
    # there, the template writes few words before that end; else it may write "ASSISTANT:" there.
    few = len(wording.asked) <= (BEHIND_IMAGE if wording.ends else BEHIND_QUESTION)
    more_before = len(wording.earlier) > max(len(wording.asked), BEFORE_IMAGE)
    if few and more_before and len(wording.behind) <= 2 * BEHIND_QUESTION:
        warnings.warn(
            f"sample {index}: {len(wording.asked)} tokens follow the last image and "
            f"{len(wording.earlier)} stand before it. Only those that follow can rate it: "
            f"{advice}.",
            RaterWarning,
            stacklevel=2,
        )
