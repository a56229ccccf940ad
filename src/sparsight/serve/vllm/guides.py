"""The guide of an image: the words of its user turn. Knows token ids alone, no vLLM.

The guide is what stands behind the last image of the turn, up to and including the mark that begins
the assistant's turn. It stays the same when the conversation goes on, and so does the image's key
in vLLM's caches.
"""

from collections.abc import Callable, Sequence

import torch

from sparsight.sequence.question import SpecialIds, check_questions

Ids = tuple[int, ...]


def find_mark(tokenize: Callable[[bool], Sequence[int]]) -> Ids:
    """Return the tokens with which an assistant's turn begins; () if a template writes none.

    Args: tokenize: takes whether an assistant's turn is begun, and returns the ids of a prompt with
        one user turn.
    """
    closed, opened = list(tokenize(False)), list(tokenize(True))
    same = 0
    while same < min(len(closed), len(opened)) and closed[same] == opened[same]:
        same += 1
    return tuple(opened[same:])


def split_turns(ids: Sequence[int], mark: Ids) -> list[Ids]:
    """Return a prompt in parts that each end with an assistant's mark, but for the last one."""
    parts: list[Ids] = []
    start = at = 0
    while mark and at + len(mark) <= len(ids):
        if tuple(ids[at : at + len(mark)]) == mark:
            at += len(mark)
            parts.append(tuple(ids[start:at]))
            start = at
        else:
            at += 1
    if start < len(ids) or not parts:
        parts.append(tuple(ids[start:]))
    return parts


def find_guides(
    ids: Sequence[int], image: int, mark: Ids, special: frozenset[int], ends: frozenset[int]
) -> list[Ids]:
    """Return the guide of each image of a prompt, in order.

    Args:
        ids: of the prompt, with one placeholder for each image.
        image: id of the placeholder.
        mark: tokens that begin an assistant's turn; () where they are not known, and the guide goes
            to the end of the prompt.
        special: ids that are no words.
        ends: ids that end a turn.

    Raises: PromptError: no words follow the images of a turn.
    """
    guides: list[Ids] = []
    for turn in split_turns(ids, mark):
        places = [place for place, token in enumerate(turn) if token == image]
        if not places:
            continue
        row = torch.tensor([turn])
        check_questions(row, row == image, SpecialIds(special, ends), None)
        guides += [turn[places[-1] + 1 :]] * len(places)
    return guides
