"""Recipes of the second edition with small evidence: crowds, flocks, signs, sheets and clips."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

from sparsight.errors import SettingError
from sparsight.evaluate.scenes.catalogue import BACKGROUND_SIZE, COLOURS, GOODS, THINGS, WORDS
from sparsight.evaluate.scenes.compose import FRAMES, STEPS, Clip, Direction, glide
from sparsight.evaluate.scenes.scene import (
    SIZE,
    Box,
    Item,
    Paper,
    Pool,
    Scene,
    Sign,
    draw_things,
    empty_scene,
    place_box,
)
from sparsight.evaluate.scenes.writing import PITCH, plate_size, room_for, sheet_height

Kind = Literal["small", "counting", "signs", "fine", "document", "mixed"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ClipEvent = Literal["moves", "appears", "disappears", "appears briefly"]
CLIP_EVENTS: tuple[ClipEvent, ...] = get_args(ClipEvent)
THING_PX = (21, 42)  # 1.5 to 3 patches of 14 px
_SKEW = 1.5  # half of the things are at most 27 px
CLIP_PX = (42, 64)  # in a scene; a clip's frames are half as large
FONTS: dict[str, tuple[int, int]] = {"signs": (25, 57), "fine": (14, 24), "mixed": (14, 57)}
MOST_SMALL = 9  # things that are counted, at most
ROWS = (6, 12)
_WIDEST = 300  # px of a plate
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def compose2(seed: str, pool: Pool, kind: Kind) -> Scene:
    """Compose the second edition's scene of a seed.

    Args:
        seed: any text; equal texts give equal scenes.
        pool: which photographs may be used.
        kind: "small", 12 to 30 things; "counting", up to 9 of one thing among others; "signs" and
            "fine", several signs, with small letters in "fine"; "document", a sheet of 6 to 12
            rows; "mixed", things and signs of all sizes, for training: some of its signs show
            random letters, and several have one colour.
    Raises: SettingError: a kind that does not exist.
    """
    rng = random.Random(f"{seed}/{kind}")  # noqa: S311 - layouts, not secrets
    if kind == "small":
        return compose_crowd(rng, pool)
    if kind == "counting":
        return compose_flock(rng, pool, rng.randrange(MOST_SMALL + 1))
    if kind == "document":
        return compose_document(rng, pool)
    if kind == "mixed":
        return _compose_mixed(rng, pool)
    if kind in FONTS:
        return compose_signs(rng, pool, kind)
    raise SettingError(f"kind={kind!r} does not exist; give one of {', '.join(KINDS)}.")


def compose_crowd(rng: random.Random, pool: Pool) -> Scene:
    """Compose 12 to 30 small things, three quarters of them different; the others repeat some."""
    count = rng.randrange(12, 31)
    names = [thing.name for thing in draw_things(rng, round(0.75 * count))]
    names += rng.choices(names, k=count - len(names))
    scene = add_small(empty_scene(rng, pool, BACKGROUND_SIZE), rng, names, rng.choice((0.7, 1.0)))
    return scene if len(scene.items) >= 12 else compose_crowd(rng, pool)


def compose_flock(rng: random.Random, pool: Pool, count: int) -> Scene:
    """Compose `count` of one thing among 4 to 12 others; with 0 the others are all there is."""
    countable = [thing for thing in THINGS if thing.plural]
    several, *others = rng.sample(countable, rng.randrange(5, 14))
    while True:
        scene = add_small(
            empty_scene(rng, pool, BACKGROUND_SIZE), rng, [several.name] * count, painted=0.5
        )
        if len(scene.items) == count:
            return add_small(scene, rng, [thing.name for thing in others], painted=0.5)


def compose_signs(rng: random.Random, pool: Pool, kind: str) -> Scene:
    """Compose signs of different colours and up to 6 small things.

    There are 2 to 5 signs, or 4 to 8 signs with fine print.
    """
    count = rng.randrange(4, 9) if kind == "fine" else rng.randrange(2, 6)
    scene = empty_scene(rng, pool, BACKGROUND_SIZE)
    scene = _add_plates(scene, rng, rng.sample(tuple(COLOURS), count), FONTS[kind], codes=0.0)
    return add_small(
        scene, rng, [thing.name for thing in draw_things(rng, rng.randrange(7))], painted=0.7
    )


def compose_document(rng: random.Random, pool: Pool) -> Scene:
    """Compose a sheet of 6 to 12 rows: what is sold on the left, its price on the right.

    Prices have 2 to 4 digits, and no two are equal.
    """
    scene = empty_scene(rng, pool, BACKGROUND_SIZE)
    count = rng.randrange(ROWS[0], ROWS[1] + 1)
    labels = [word.upper() for word in rng.sample(GOODS, count)]
    values: list[str] = []
    while len(values) < count:
        value = _number(rng)
        if value not in values:
            values.append(value)
    font = rng.randrange(14, min(24, int((SIZE - 16) / (count + 0.5) / PITCH)) + 1)
    text = max(room_for(label, font) for label in labels) + room_for("0000", font)
    width = min(SIZE - 8, round(text + font * rng.uniform(2.5, 6.0)))
    box = place_box(rng, width, sheet_height(count, font), ())
    rows = tuple(zip(labels, values, strict=True))
    return replace(scene, papers=(Paper(box, font, rows),)) if box else scene


def _compose_mixed(rng: random.Random, pool: Pool) -> Scene:
    """Compose 6 to 10 signs and 10 to 18 small things, for training."""
    colours = rng.choices(tuple(COLOURS), k=rng.randrange(6, 11))
    scene = _add_plates(
        empty_scene(rng, pool, BACKGROUND_SIZE), rng, colours, FONTS["mixed"], codes=0.3
    )
    names = [thing.name for thing in draw_things(rng, rng.randrange(10, 19))]
    return add_small(scene, rng, names, painted=0.7)


def compose_clip2(seed: str, pool: Pool, event: ClipEvent | None = None) -> Clip:
    """Compose the second edition's clip of a seed: one small thing changes among 5 to 9 others.

    Args:
        seed: any text; equal texts give equal clips.
        pool: which photographs may be used.
        event: "moves"; "appears" or "disappears", for good; "appears briefly", in one frame;
            None draws one of them.
    """
    rng = random.Random(f"{seed}/clip")  # noqa: S311 - layouts, not secrets
    happens: ClipEvent = rng.choice(CLIP_EVENTS) if event is None else event
    scene = empty_scene(rng, pool, BACKGROUND_SIZE)
    names = [thing.name for thing in draw_things(rng, rng.randrange(6, 11))]
    if happens == "moves":
        return _compose_moving(rng, scene, names)
    while len(scene.items) < 6:
        scene = add_small(replace(scene, items=()), rng, names, 0.5, CLIP_PX)
    subject = rng.choice(scene.items)
    without = replace(scene, items=tuple(item for item in scene.items if item is not subject))
    if happens == "appears briefly":
        first = rng.randrange(1, FRAMES - 1)
        shown = range(first, first + 1)
    elif happens == "appears":
        shown = range(rng.randrange(4, 7), FRAMES)
    else:
        shown = range(rng.randrange(2, 5))
    frames = tuple(scene if number in shown else without for number in range(FRAMES))
    return Clip(frames, subject.thing, happens)


def _compose_moving(rng: random.Random, scene: Scene, names: Sequence[str]) -> Clip:
    """Compose a clip in which the first thing moves along a free lane."""
    direction: Direction = rng.choice(tuple(STEPS))
    dx, dy = STEPS[direction]
    side, way = _between(rng, CLIP_PX), rng.randrange(100, 220)
    width, height = side + way * abs(dx), side + way * abs(dy)
    left, top = rng.randrange(SIZE - width + 1), rng.randrange(SIZE - height + 1)
    lane = Item(names[0], None, Box(left, top, left + width, top + height))
    still = add_small(replace(scene, items=(lane,)), rng, names[1:], 0.5, CLIP_PX).items[1:]
    subject = add_small(scene, rng, names[:1], 0.5, (side, side)).items[0]
    frames = glide(scene, subject, still, direction, (left, top, way))
    return Clip(frames, names[0], direction)


def add_small(
    scene: Scene,
    rng: random.Random,
    names: Sequence[str],
    painted: float,
    sides: tuple[int, int] = THING_PX,
) -> Scene:
    """Put small things where there is room; a share of them is painted in one of a few colours."""
    palette = rng.sample(tuple(COLOURS), rng.randrange(3, 7))
    items = list(scene.items)
    for name in names:
        side = _between(rng, sides, _SKEW)
        box = place_box(rng, side, side, (*scene.taken, *(item.box for item in items)))
        colour = rng.choice(palette) if rng.random() < painted else None
        if box is not None:
            items.append(Item(name, colour, box, rng.random() < 0.5, rng.randrange(-12, 13)))
    return replace(scene, items=tuple(items))


def _add_plates(
    scene: Scene,
    rng: random.Random,
    colours: Sequence[str],
    fonts: tuple[int, int],
    codes: float,
) -> Scene:
    """Put a sign of each colour where there is room; a share of them shows random letters."""
    signs: list[Sign] = []
    for colour in colours:
        text = _number(rng) if rng.random() < 0.5 else rng.choice(WORDS).upper()
        if rng.random() < codes:
            text = "".join(rng.choices(_LETTERS, k=rng.randrange(3, 7)))
        font = min(_between(rng, fonts), int(_WIDEST / (plate_size(text, 100)[0] / 100)))
        box = place_box(rng, *plate_size(text, font), (*scene.taken, *(sign.box for sign in signs)))
        if box is not None:
            signs.append(Sign(text, font, colour, box))
    return replace(scene, signs=tuple(signs))


def _number(rng: random.Random) -> str:
    """Draw a number of 2 to 4 digits, each length equally often."""
    digits = rng.randrange(2, 5)
    return str(rng.randrange(10 ** (digits - 1), 10**digits))


def _between(rng: random.Random, sides: tuple[int, int], skew: float = 1.0) -> int:
    """Draw a size between two, both included, evenly on a logarithmic scale.

    A skew above 1 favours small sizes.
    """
    low, high = sides
    return min(high, int(low * ((high + 1) / low) ** (rng.random() ** skew)))
