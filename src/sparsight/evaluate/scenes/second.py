"""The parts of the second edition with small evidence: what each asks about, and how often."""

import random
from collections.abc import Callable
from functools import partial

from sparsight.evaluate.scenes import ask, ask_small
from sparsight.evaluate.scenes.ask import Turn
from sparsight.evaluate.scenes.catalogue import COLOURS
from sparsight.evaluate.scenes.compose import STEPS
from sparsight.evaluate.scenes.compose_small import (
    MOST_SMALL,
    ClipEvent,
    Kind,
    compose2,
    compose_clip2,
    compose_flock,
)
from sparsight.evaluate.scenes.draft import Dice, Made, Parts, about_clip, which_image
from sparsight.evaluate.scenes.render import contrast
from sparsight.evaluate.scenes.scene import Scene

CONTRAST = 40.0  # of 255: evidence that differs less from the photograph behind it is not asked for
_COUNTS: dict[Kind, int] = {"small": 48, "signs": 12, "fine": 10, "document": 10}  # shared scenes
_LAG = 7  # scenes between an attempt and the next one

Asker = Callable[[Scene, random.Random], Turn | None]


def second_edition() -> Parts:
    """Return the parts of the second edition."""
    return {
        **{("existence", how): (16, partial(_existence, how)) for how in (*ask.EXISTENCE, "pair")},
        ("attribute", "color"): (
            28,
            partial(_shared, ("small", ask.colour), answers=tuple(COLOURS)),
        ),
        ("attribute", "kind"): (24, partial(_shared, ("small", ask_small.kind_of_colour))),
        ("relation", "one-step"): (28, partial(_shared, ("small", ask_small.nearest))),
        ("relation", "two-step"): (24, partial(_shared, ("small", ask_small.nearest_colour))),
        ("reading", "number"): (14, partial(_shared, ("signs", _number))),
        ("reading", "word"): (10, partial(_shared, ("signs", _word))),
        ("reading", "fine print"): (18, partial(_shared, ("fine", ask_small.read_sign))),
        ("reading", "document"): (18, _document),
        ("counting", ""): (4 * (MOST_SMALL + 1), _counting),
        ("place", ""): (44, partial(_shared, ("small", ask.place), answers=ask.PLACES)),
        ("two-turn", ""): (40, _two_turns),
        ("multi-image", "which"): (20, partial(_several, which_image)),
        ("multi-image", "named"): (20, partial(_several, ask_small.in_one_image)),
        ("clip", "motion"): (12, partial(_clip, ("moves",))),
        ("clip", "event"): (12, partial(_clip, ("appears", "disappears"))),
        ("clip", "brief"): (20, partial(_clip, ("appears briefly",))),
    }


def is_visible(scene: Scene, turn: Turn, image: int = 0) -> bool:
    """Tell whether every thing that a question rests on stands out from the photograph."""
    boxes = set(turn.boxes[image])
    return all(contrast(scene, item) >= CONTRAST for item in scene.items if item.box in boxes)


def _scene(dice: Dice, kind: Kind, index: int) -> tuple[str, Scene]:
    """Return one of the scenes that several questions share, and its name."""
    name = f"{kind}-{index % _COUNTS[kind]:03}"
    return name, compose2(f"{dice.seed}/{dice.pool}/{name}", dice.pool, kind)


def _shared(
    topic: tuple[Kind, Asker],
    dice: Dice,
    rng: random.Random,
    number: int,
    attempt: int,
    *,
    answers: tuple[str, ...] = (),
) -> Made | None:
    """Make a question about a scene of a kind; where answers are given, they take turns."""
    kind, make = topic
    name, scene = _scene(dice, kind, number + _LAG * attempt)
    turn = make(scene, rng)
    if turn is None or (answers and turn.answer != answers[number % len(answers)]):
        return None
    return ({name: scene}, (turn,)) if is_visible(scene, turn) else None


def _existence(how: str, dice: Dice, rng: random.Random, number: int, attempt: int) -> Made | None:
    """Make a question whose answer is yes for even numbers and no for odd ones."""
    present: Asker = ask_small.pair_present if how == "pair" else ask.present
    absent: Asker = ask_small.pair_absent if how == "pair" else partial(ask.absent, how=how)
    return _shared(("small", absent if number % 2 else present), dice, rng, number, attempt)


def _number(scene: Scene, rng: random.Random) -> Turn | None:
    return ask_small.read_sign(scene, rng, "number")


def _word(scene: Scene, rng: random.Random) -> Turn | None:
    return ask_small.read_sign(scene, rng, "word")


def _document(dice: Dice, rng: random.Random, number: int, attempt: int) -> Made | None:
    """Make two questions for a price, then one for what has a price."""
    make = ask_small.what_costs if number % 3 == 2 else ask_small.price
    return _shared(("document", make), dice, rng, number, attempt)


def _counting(dice: Dice, rng: random.Random, number: int, attempt: int) -> Made | None:
    name, count = f"counting-{number:03}", number % (MOST_SMALL + 1)
    scene = compose_flock(dice.of(name, attempt, "scene"), dice.pool, count)
    turn = ask.counting(scene, rng)
    if turn is None or turn.answer != str(count) or not is_visible(scene, turn):
        return None
    return {name: scene}, (turn,)


def _two_turns(dice: Dice, rng: random.Random, number: int, attempt: int) -> Made | None:
    """Make two questions on different things of one scene."""
    name, scene = _scene(dice, "small", number + _LAG * attempt)
    askers = (ask.colour, ask.place, ask_small.nearest, ask_small.kind_of_colour)
    first, second = (make(scene, rng) for make in rng.sample(askers, 2))
    if not first or not second or set(first.boxes[0]) & set(second.boxes[0]):
        return None
    clear = is_visible(scene, first) and is_visible(scene, second)
    return ({name: scene}, (first, second)) if clear else None


def _several(
    make: Callable[[list[Scene], random.Random], Turn | None],
    dice: Dice,
    rng: random.Random,
    number: int,
    attempt: int,
) -> Made | None:
    """Make a question about two images, or about three for odd numbers; each matters as often."""
    del attempt
    count = 2 + number % 2
    indices = rng.sample(range(_COUNTS["small"]), count)
    shown = dict(_scene(dice, "small", index) for index in indices)
    turn = make(list(shown.values()), rng)
    if turn is None or not turn.boxes[number // 2 % count]:
        return None
    clear = all(is_visible(scene, turn, image) for image, scene in enumerate(shown.values()))
    return (dict(shown), (turn,)) if clear else None


def _clip(
    events: tuple[ClipEvent, ...], dice: Dice, rng: random.Random, number: int, attempt: int
) -> Made | None:
    """Make a question about a clip; directions take turns, so that each is asked as often."""
    del rng
    event = events[number % len(events)]
    name = f"clip-{event.split()[-1]}-{number:03}"
    clip = compose_clip2(f"{dice.seed}/{dice.pool}/{name}/{attempt}", dice.pool, event)
    if event == "moves" and clip.event != tuple(STEPS)[number % len(STEPS)]:
        return None
    subjects = [
        (frame, item) for frame in clip.frames for item in frame.items if item.thing == clip.subject
    ]
    if any(contrast(frame, item) < CONTRAST for frame, item in subjects):
        return None
    return {name: clip}, (about_clip(clip),)
