"""Questions about one scene, each with its answer and the boxes of its evidence.

A function returns None where a scene allows no such question.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sparsight.evaluate.scenes.catalogue import KINDS, THINGS, Thing, with_article
from sparsight.evaluate.scenes.scene import SIZE, Box, Item, Scene, Sign, popular

PLACES = (
    "top left",
    "top",
    "top right",
    "left",
    "center",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)
ORDINALS = ("first", "second", "third")
EXISTENCE = ("random", "popular", "adversarial")
# for the words of each side, the direction to it: right and down are positive
SIDES = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
_COUNTABLE = [thing for thing in THINGS if thing.plural]
_MARGIN = 10  # px between a thing's middle and the next cell of the grid
_STEP = 28  # px by which one thing must be left of or above another
_NEAREST = 1.4  # the second nearest is at least that many times as far

Offset = tuple[Item, float, float]  # a thing, and px from another thing's middle to its own


@dataclass(frozen=True)
class Turn:
    """One question and its answer.

    Args:
        question: what is asked.
        answer: the expected answer, one or two words.
        boxes: for each image, the boxes in px that the answer rests on; all empty where something
            is absent.
    """

    question: str
    answer: str
    boxes: tuple[tuple[Box, ...], ...]


def turn(question: str, answer: str, *evidence: Item | Sign) -> Turn:
    """Return a question about one image whose evidence is these things."""
    return Turn(question, answer, (tuple(thing.box for thing in evidence),))


def present(scene: Scene, rng: random.Random) -> Turn | None:
    """Ask whether something is there that is."""
    if not scene.items:
        return None
    item = rng.choice(scene.items)
    same = [other for other in scene.items if other.thing == item.thing]
    return turn(f"Is there {with_article(item.thing)} in the image?", "yes", *same)


def absent(scene: Scene, rng: random.Random, how: str) -> Turn | None:
    """Ask whether something is there that is not.

    Source: POPE (arXiv 2305.10355), section 5.1: random, popular (frequent in the data) and
        adversarial (co-occurring with what is there) negatives.
    Differs: co-occurrence is drawn by kind here, so adversarial ones are of the kind that the scene
        shows most.
    """
    here = {item.thing for item in scene.items}
    pool: tuple[Thing, ...] = popular() if how == "popular" else THINGS
    if how == "adversarial":
        kinds = [thing.kind for thing in THINGS if thing.name in here]
        if not kinds:
            return None
        pool = tuple(thing for thing in THINGS if thing.kind == max(KINDS, key=kinds.count))
    free = [thing for thing in pool if thing.name not in here]
    return turn(f"Is there {rng.choice(free).article} in the image?", "no") if free else None


def colour(scene: Scene, rng: random.Random) -> Turn | None:
    """Ask for the colour of a painted thing."""
    found = [item for item in scene.singles if item.colour]
    if not found:
        return None
    item = rng.choice(found)
    return turn(f"What color is the {item.thing}?", str(item.colour), item)


def kind(scene: Scene, rng: random.Random) -> Turn | None:
    """Ask which animal, food or vehicle there is, where there is one of that kind."""
    of = {thing.name: thing.kind for thing in THINGS}
    kinds = [of[item.thing] for item in scene.items]
    found = [
        item
        for item in scene.items
        if kinds.count(of[item.thing]) == 1 and of[item.thing] != "object"
    ]
    if not found:
        return None
    item = rng.choice(found)
    return turn(f"Which {of[item.thing]} is in the image?", item.thing, item)


def relation(scene: Scene, rng: random.Random) -> Turn | None:
    """Ask what is left of, right of, above, below or next to a thing."""
    found = relations(scene)
    if not found:
        return None
    words, anchor, item = rng.choice(found)
    return turn(f"What is {words} the {anchor.thing}?", item.thing, item, anchor)


def two_steps(scene: Scene, rng: random.Random) -> Turn | None:
    """Ask for the colour of the thing that stands left of, above, ... another."""
    found = [row for row in relations(scene) if row[2].colour]
    if not found:
        return None
    words, anchor, item = rng.choice(found)
    return turn(
        f"What color is the thing {words} the {anchor.thing}?", str(item.colour), item, anchor
    )


def relations(scene: Scene) -> list[tuple[str, Item, Item]]:
    """Return every relation that holds of exactly one thing: (words, anchor, thing)."""
    if len(scene.singles) != len(scene.items):
        return []
    rows = []
    for anchor in scene.items:
        x, y = anchor.box.centre
        others = [
            (item, item.box.centre[0] - x, item.box.centre[1] - y)
            for item in scene.items
            if item is not anchor
        ]
        for words, side in SIDES.items():
            beside = _list_beside(others, side)
            rows += [(words, anchor, beside[0])] if len(beside) == 1 else []
        near = sorted(others, key=_squared)
        if len(near) > 1 and _squared(near[1]) >= _NEAREST**2 * _squared(near[0]):
            rows.append(("next to", anchor, near[0][0]))
    return rows


def _list_beside(others: Sequence[Offset], side: tuple[int, int]) -> list[Item]:
    """Return the things that lie clearly on one side: far enough along it, and not much across."""
    beside = []
    for item, dx, dy in others:
        along = dx * side[0] + dy * side[1]
        across = abs(dx * side[1]) + abs(dy * side[0])
        if along > max(_STEP, 1.5 * across):
            beside.append(item)
    return beside


def _squared(row: Offset) -> float:
    return row[1] ** 2 + row[2] ** 2


def reading(scene: Scene, rng: random.Random) -> Turn | None:
    """Ask for the word or number on a sign, by the sign's colour where there are several."""
    if not scene.signs:
        return None
    sign = rng.choice(scene.signs)
    which = "the sign" if len(scene.signs) == 1 else f"the {sign.colour} sign"
    return turn(f"What {sign.noun} is on {which}?", sign.text, sign)


def counting(scene: Scene, rng: random.Random) -> Turn | None:
    """Ask how many of one thing there are; of absent things in one of eight cases."""
    counts = Counter(item.thing for item in scene.items)
    several = [thing for thing in _COUNTABLE if counts[thing.name]]
    if not several or rng.random() < 0.125:
        absent_things = [thing for thing in _COUNTABLE if not counts[thing.name]]
        return turn(f"How many {rng.choice(absent_things).plural} are there?", "0")
    most = max(several, key=lambda thing: counts[thing.name])
    thing = most if rng.random() < 0.75 else rng.choice(several)
    counted = [item for item in scene.items if item.thing == thing.name]
    return turn(f"How many {thing.plural} are there?", str(len(counted)), *counted)


def place(scene: Scene, rng: random.Random) -> Turn | None:
    """Ask in which cell of a 3 x 3 grid a thing stands."""
    found = [(item, where) for item in scene.singles if (where := cell(item.box))]
    if not found:
        return None
    item, where = rng.choice(found)
    return turn(f"Where is the {item.thing}?", where, item)


def cell(box: Box) -> str | None:
    """Return the cell of the 3 x 3 grid with a box's middle; None near a border of two cells."""
    third = SIZE / 3
    column, row = (int(middle // third) for middle in box.centre)
    near = any(
        abs(middle - border) < _MARGIN for middle in box.centre for border in (third, 2 * third)
    )
    return None if near else PLACES[3 * row + column]


def caption(scene: Scene, rng: random.Random) -> Turn | None:
    """Ask for everything, to be named in reading order with colour and place; for training."""
    del rng
    things = sorted(
        scene.items, key=lambda item: (item.box.centre[1] // (SIZE / 3), item.box.centre[0])
    )
    parts = [f"{item.label} {cell(item.box) or ''}".strip() for item in things]
    parts += [f"{sign.colour} sign {sign.text}" for sign in scene.signs]
    return turn("List everything.", ", ".join(parts), *things, *scene.signs) if parts else None
