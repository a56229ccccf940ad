"""Questions of the second edition, each with the boxes that all have to be seen.

A function returns None where a scene allows no such question.
Boxes are those of whole things, of single characters on signs and in rows, and of a row's label.
"""

import random
from collections.abc import Callable, Sequence
from functools import partial

from sparsight.evaluate.scenes import ask
from sparsight.evaluate.scenes.ask import SIDES, Turn, turn
from sparsight.evaluate.scenes.catalogue import THINGS, WORDS, with_article
from sparsight.evaluate.scenes.compose_small import Kind
from sparsight.evaluate.scenes.scene import Box, Item, Scene, Sign
from sparsight.evaluate.scenes.writing import Characters, row_characters, sign_characters

Asker = Callable[[Scene, random.Random], Turn | None]
_REACH = 110  # px from one thing's middle to the next one's, at most
_NEAREST = 1.4  # the second nearest is at least that many times as far
_KIND_OF = {thing.name: thing.kind for thing in THINGS}


def pair_present(scene: Scene, rng: random.Random) -> Turn | None:
    """Ask whether there is a thing of a colour that is there."""
    pairs = sorted({(item.colour, item.thing) for item in _painted(scene) if item.colour})
    if not pairs:
        return None
    colour, thing = rng.choice(pairs)
    same = [item for item in scene.items if (item.colour, item.thing) == (colour, thing)]
    return turn(_is_there(colour, thing), "yes", *same)


def pair_absent(scene: Scene, rng: random.Random) -> Turn | None:
    """Ask whether there is a thing of a colour, where both are there and never together."""
    painted = _painted(scene)
    here = {(item.colour, item.thing) for item in painted}
    colours = sorted({item.colour for item in scene.items if item.colour})
    names = sorted({item.thing for item in painted})
    pairs = [(c, name) for c in colours for name in names if (c, name) not in here]
    if not pairs:
        return None
    colour, thing = rng.choice(pairs)
    return turn(_is_there(colour, thing), "no")


def _is_there(colour: str, thing: str) -> str:
    """Return the question for a thing of a colour; what is not counted goes without an article."""
    words = f"{colour} {thing}"
    counted = with_article(thing) != thing
    return f"Is there {with_article(words) if counted else words} in the image?"


def _painted(scene: Scene) -> list[Item]:
    """Return things of which none is in its own colours, which could be taken for a painted one."""
    plain = {item.thing for item in scene.items if item.colour is None}
    return [item for item in scene.items if item.thing not in plain]


def kind_of_colour(scene: Scene, rng: random.Random) -> Turn | None:
    """Ask which animal, food or vehicle has a colour.

    One thing of that kind has it, and no thing of that kind is in its own colours.
    """
    plain = {_KIND_OF[item.thing] for item in scene.items if item.colour is None}
    pairs = [(item.colour, _KIND_OF[item.thing]) for item in scene.items]
    single = [
        item
        for item, pair in zip(scene.items, pairs, strict=True)
        if pairs.count(pair) == 1 and pair[1] not in plain | {"object"}
    ]
    if not single:
        return None
    item = rng.choice(single)
    return turn(f"Which {_KIND_OF[item.thing]} is {item.colour}?", item.thing, item)


def nearest(scene: Scene, rng: random.Random) -> Turn | None:
    """Ask what is just left of, right of, above or below a thing, or nearest to it."""
    rows = nearest_relations(scene)
    if not rows:
        return None
    words, anchor, item = rng.choice(rows)
    return turn(f"What is {words} the {anchor.thing}?", item.thing, item, anchor)


def nearest_colour(scene: Scene, rng: random.Random) -> Turn | None:
    """Ask for the colour of the thing that is just left of, above, ... or nearest to another."""
    rows = [row for row in nearest_relations(scene) if row[2].colour]
    if not rows:
        return None
    words, anchor, item = rng.choice(rows)
    question = f"What color is the thing {words} the {anchor.thing}?"
    return turn(question, str(item.colour), item, anchor)


def nearest_relations(scene: Scene) -> list[tuple[str, Item, Item]]:
    """Return each clear relation of neighbours: (words, anchor, thing); anchors are singles."""
    rows = []
    for anchor in scene.singles:
        others = [item for item in scene.items if item is not anchor]
        near = _first(anchor, others)
        rows += [("nearest to", anchor, near)] if near else []
        for words, side in SIDES.items():
            near = _first(anchor, [item for item in others if _tilt(anchor, item, side) <= 1.5])
            if near and _tilt(anchor, near, side) <= 0.5:
                rows.append((f"just {words}", anchor, near))
    return rows


def _tilt(anchor: Item, item: Item, side: tuple[int, int]) -> float:
    """Return how far a thing lies across a direction over how far along it; infinite behind."""
    dx = item.box.centre[0] - anchor.box.centre[0]
    dy = item.box.centre[1] - anchor.box.centre[1]
    along = dx * side[0] + dy * side[1]
    across = abs(dx * side[1]) + abs(dy * side[0])
    return across / along if along > 0 else float("inf")


def _first(anchor: Item, items: Sequence[Item]) -> Item | None:
    """Return the thing that is clearly nearest to an anchor and within reach, else None."""
    x, y = anchor.box.centre
    rows = [
        (((item.box.centre[0] - x) ** 2 + (item.box.centre[1] - y) ** 2) ** 0.5, number)
        for number, item in enumerate(items)
    ]
    (distance, number), *more = [*sorted(rows), (2 * _REACH, -1)][:2] or [(0.0, -1)]
    if number < 0 or distance > _REACH or (more and more[0][0] < _NEAREST * distance):
        return None
    return items[number]


def read_sign(scene: Scene, rng: random.Random, noun: str | None = None) -> Turn | None:
    """Ask for the number or word on a sign, named by its colour; each character is evidence.

    Args:
        scene: to ask about.
        rng: chooses the sign.
        noun: "number" or "word"; None allows both. Random letters are not asked for.
    """
    colours = [sign.colour for sign in scene.signs]
    signs = [
        sign
        for sign in scene.signs
        if colours.count(sign.colour) == 1
        and (sign.text.isdigit() or sign.text.lower() in WORDS)
        and noun in (None, sign.noun)
    ]
    if not signs:
        return None
    sign: Sign = rng.choice(signs)
    boxes = _boxes(sign_characters(sign))
    return Turn(f"What {sign.noun} is on the {sign.colour} sign?", sign.text.lower(), (boxes,))


def price(scene: Scene, rng: random.Random) -> Turn | None:
    """Ask for a price on a sheet; each digit and the whole label are evidence."""
    row = _choose_row(scene, rng)
    if row is None:
        return None
    label, value = row
    boxes = (*_boxes(value), _around(label))
    return Turn(f"What is the price of {_text(label).lower()}?", _text(value), (boxes,))


def what_costs(scene: Scene, rng: random.Random) -> Turn | None:
    """Ask what has a price on a sheet; each digit and the whole label are evidence."""
    row = _choose_row(scene, rng)
    if row is None:
        return None
    label, value = row
    boxes = (*_boxes(value), _around(label))
    return Turn(f"What costs {_text(value)}?", _text(label).lower(), (boxes,))


def _choose_row(scene: Scene, rng: random.Random) -> tuple[Characters, Characters] | None:
    rows = [(paper, row) for paper in scene.papers for row in range(len(paper.rows))]
    return row_characters(*rng.choice(rows)) if rows else None


def _text(characters: Characters) -> str:
    return "".join(character for character, _ in characters)


def _boxes(characters: Characters) -> tuple[Box, ...]:
    return tuple(box for _, box in characters)


def _around(characters: Characters) -> Box:
    boxes = _boxes(characters)
    top, bottom = min(box.top for box in boxes), max(box.bottom for box in boxes)
    return Box(boxes[0].left, top, boxes[-1].right, bottom)


def in_one_image(scenes: Sequence[Scene], rng: random.Random) -> Turn | None:
    """Ask for the colour of a thing in one of several images; others may show it in another colour.

    A thing that several images show in different colours is preferred.
    """
    index = rng.randrange(len(scenes))
    painted = [item for item in scenes[index].singles if item.colour]
    elsewhere = {item.thing for i, scene in enumerate(scenes) if i != index for item in scene.items}
    items = [item for item in painted if item.thing in elsewhere] or painted
    if not items:
        return None
    item = rng.choice(items)
    boxes = tuple((item.box,) if i == index else () for i in range(len(scenes)))
    question = f"What color is the {item.thing} in the {ask.ORDINALS[index]} image?"
    return Turn(question, str(item.colour), boxes)


ASKERS: dict[tuple[str, str], tuple[Kind, Asker]] = {
    ("existence", "yes"): ("small", ask.present),
    **{
        ("existence", f"{how} no"): ("small", partial(ask.absent, how=how)) for how in ask.EXISTENCE
    },
    ("existence", "pair yes"): ("small", pair_present),
    ("existence", "pair no"): ("small", pair_absent),
    ("attribute", "color"): ("small", ask.colour),
    ("attribute", "kind"): ("small", kind_of_colour),
    ("relation", "one-step"): ("small", nearest),
    ("relation", "two-step"): ("small", nearest_colour),
    ("place", ""): ("small", ask.place),
    ("counting", ""): ("counting", ask.counting),
    ("reading", "sign"): ("signs", read_sign),
    ("reading", "fine"): ("fine", read_sign),
    ("reading", "price"): ("document", price),
    ("reading", "what costs"): ("document", what_costs),
}
"""For each family and part that asks about one scene: the kind of scene, and what asks about it."""
