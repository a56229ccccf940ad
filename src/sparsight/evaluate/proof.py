"""How likely a random draw of visual tokens keeps enough of a question's evidence.

The chances are exact, and no model is needed. Enough is generous: it says what has to be seen at
least, not what a model can do with it.

* existence: one visual token of one of the things; a question whose answer is no needs none.
* clip: one of the thing that appears or disappears, in any frame; of a thing that moves one in the
  first half of the frames and one in the second.
* every other family: one of each box. In the second edition these are: a thing that is asked about;
  both things of a relation; every thing that is counted; every character on a sign; every digit of
  a price, and the label beside it.
"""

import math
from collections.abc import Sequence
from itertools import combinations

from sparsight.counts.layout import grids_layout
from sparsight.evaluate.evidence import find_covered
from sparsight.evaluate.scenes import Box, Question
from sparsight.evaluate.scenes.compose import STEPS
from sparsight.evaluate.scenes.render import CLIP_SIZE
from sparsight.evaluate.scenes.scene import SIZE
from sparsight.evaluate.scoring import YES_NO
from sparsight.methods.parts.cells import partition

PATCH = 14  # px of the patch that stands for one visual token
STILL = (SIZE // PATCH) ** 2  # visual tokens of one still image

Tokens = frozenset[int]


def random_proof(question: Question, budget: int = 64) -> float:
    """Return the chance that a random draw keeps enough evidence to answer a question's last turn.

    Args:
        question: of a suite.
        budget: visual tokens that are kept of one still image, 576 tokens; several images and
            clips keep the same fraction of theirs.
    Returns: in 0..1; 1 where nothing has to be seen.
    """
    total = _visual_tokens(question)
    return chance_of_all(needed_tokens(question), total, round(total * budget / STILL))


def grid_keeps_enough(question: Question, budget: int = 64) -> bool:
    """Return whether the even grid of `Uniform` keeps enough for a question's last turn."""
    total = _visual_tokens(question)
    side = (CLIP_SIZE if question.frames else SIZE) // PATCH
    layout = grids_layout([(side, side)] * (question.frames or len(question.images)))
    centres = partition(layout, round(total * budget / STILL))[1]
    kept = {int(token) for token in centres}
    return all(group & kept for group in needed_tokens(question))


def chance_of_all(groups: Sequence[Tokens], total: int, kept: int) -> float:
    """Return the chance that `kept` of `total` tokens, drawn at random, hold one of each group.

    By inclusion and exclusion over the groups that are missed: groups may share tokens.
    """
    draws = math.comb(total, kept)
    missed = 0
    for count in range(len(groups) + 1):
        for lost in combinations(groups, count):
            outside = total - len(frozenset[int]().union(*lost))
            missed += (-1) ** count * math.comb(outside, kept)
    return missed / draws


def needed_tokens(question: Question) -> list[Tokens]:
    """Return groups of visual tokens: at least one token of each group has to be kept."""
    turn = question.turns[-1]
    side = CLIP_SIZE if question.frames else SIZE
    images = [_groups_of_image(boxes, side, image) for image, boxes in enumerate(turn.boxes)]
    if not any(images):
        return []
    if question.frames and turn.answer in STEPS:
        half = question.frames // 2
        return [_join(images[:half]), _join(images[half:])]
    if question.frames or question.family == YES_NO:
        return [_join(images)]
    return [group for groups in images for group in groups]


def _join(images: Sequence[Sequence[Tokens]]) -> Tokens:
    """Return the visual tokens of all groups of all images."""
    return frozenset[int]().union(*(group for groups in images for group in groups))


def _groups_of_image(boxes: Sequence[Box], side: int, image: int) -> list[Tokens]:
    """Return the numbers of the visual tokens that show each box; images are numbered on."""
    grid = side // PATCH
    shown = find_covered(boxes, (side, side), (grid, grid)).flatten(1)  # (E, grid^2)
    first = image * grid**2
    numbers = [row.nonzero().flatten() + first for row in shown]
    return [frozenset(row.tolist()) for row in numbers]


def _visual_tokens(question: Question) -> int:
    """Return how many visual tokens a question's images have."""
    if question.frames:
        return question.frames * (CLIP_SIZE // PATCH) ** 2
    return len(question.images) * STILL
