"""Recipes for scenes and clips: a seed in, the same layout out."""

import random
from dataclasses import dataclass, replace
from typing import Literal

from sparsight.evaluate.scenes.catalogue import BACKGROUND_SIZE, THINGS
from sparsight.evaluate.scenes.scene import (
    SIZE,
    Box,
    Item,
    Pool,
    Scene,
    TextSize,
    add_items,
    add_signs,
    draw_things,
    empty_scene,
)

FRAMES = 8
MOST = 6  # things that are counted, at most
Direction = Literal["left", "right", "up", "down"]
STEPS: dict[Direction, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}


def compose(seed: str, pool: Pool) -> Scene:
    """Compose the scene of a seed.

    Most things in it are different; often there is a sign, sometimes several of one thing.

    Args:
        seed: any text; equal texts give equal scenes.
        pool: which photographs may be used.
    """
    rng = random.Random(seed)  # noqa: S311 - layouts, not secrets
    draw = rng.random()
    if draw < 0.22:
        return compose_counting(rng, pool, rng.randrange(MOST + 1))
    if draw < 0.42:
        return compose_reading(rng, pool, None)
    return compose_things(rng, pool)


def compose_things(rng: random.Random, pool: Pool) -> Scene:
    """Compose three to six different things and, one time in three, a sign."""
    scene = empty_scene(rng, pool, BACKGROUND_SIZE)
    scene = add_items(scene, rng, draw_things(rng, rng.randrange(3, 7)), (56, 100))
    return add_signs(scene, rng, 1) if rng.random() < 0.33 else scene


def compose_reading(rng: random.Random, pool: Pool, size: TextSize | None) -> Scene:
    """Compose one or two signs, of one size if given, and up to three things."""
    scene = add_signs(empty_scene(rng, pool, BACKGROUND_SIZE), rng, rng.randrange(1, 3), size)
    return add_items(scene, rng, draw_things(rng, rng.randrange(4)), (52, 90))


def compose_counting(rng: random.Random, pool: Pool, count: int) -> Scene:
    """Compose `count` of one thing among two others; with 0 the two are all there is."""
    countable = [thing for thing in THINGS if thing.plural]
    several, *others = rng.sample(countable, 3)
    scene = add_items(
        empty_scene(rng, pool, BACKGROUND_SIZE), rng, [several] * count, (48, 72), painted=0.3
    )
    return add_items(scene, rng, others, (48, 80))


@dataclass(frozen=True)
class Clip:
    """A short video.

    Args:
        frames: FRAMES scenes of one background.
        subject: the thing that moves, appears or disappears.
        event: what it does: a direction, "appears" or "disappears", in the second edition
            also "appears briefly".
    """

    frames: tuple[Scene, ...]
    subject: str
    event: str


def compose_clip(seed: str, pool: Pool) -> Clip:
    """Compose the clip of a seed: one thing moves, appears or disappears; the others stay."""
    rng = random.Random(seed)  # noqa: S311 - layouts, not secrets
    if rng.random() < 0.6:
        return _moving(rng, pool)
    scene = empty_scene(rng, pool, BACKGROUND_SIZE)
    while len(scene.items) < 2:
        scene = add_items(
            replace(scene, items=()), rng, draw_things(rng, rng.randrange(2, 4)), (84, 116)
        )
    subject, event = rng.choice(scene.items), rng.choice(("appears", "disappears"))
    turn = rng.randrange(3, 6)
    without = replace(scene, items=tuple(item for item in scene.items if item is not subject))
    first, last = (without, scene) if event == "appears" else (scene, without)
    return Clip((first,) * turn + (last,) * (FRAMES - turn), subject.thing, event)


def _moving(rng: random.Random, pool: Pool) -> Clip:
    scene = empty_scene(rng, pool, BACKGROUND_SIZE)
    subject, *others = draw_things(rng, rng.randrange(2, 4))
    direction: Direction = rng.choice(tuple(STEPS))
    dx, dy = STEPS[direction]
    side, way = rng.randrange(84, 110), rng.randrange(130, 200)
    width, height = side + way * abs(dx), side + way * abs(dy)
    left, top = rng.randrange(SIZE - width + 1), rng.randrange(SIZE - height + 1)
    lane = Item(subject.name, None, Box(left, top, left + width, top + height))
    still = add_items(replace(scene, items=(lane,)), rng, others, (84, 110)).items[1:]
    painted = add_items(scene, rng, [subject], (side, side)).items[0]
    return Clip(glide(scene, painted, still, direction, (left, top, way)), subject.name, direction)


def glide(
    scene: Scene,
    subject: Item,
    still: tuple[Item, ...],
    direction: Direction,
    lane: tuple[int, int, int],
) -> tuple[Scene, ...]:
    """Return the frames in which a thing moves evenly while others stand still.

    Args:
        scene: the photograph, with nothing on it.
        subject: what moves; its size is kept.
        still: what stands still.
        direction: where the thing moves.
        lane: left and top of the lane, and px that the thing moves.
    """
    left, top, way = lane
    dx, dy = STEPS[direction]
    side = subject.box.right - subject.box.left
    frames = []
    for number in range(FRAMES):
        done = way * number // (FRAMES - 1)
        x = left + (done if dx > 0 else way - done if dx < 0 else 0)
        y = top + (done if dy > 0 else way - done if dy < 0 else 0)
        moved = replace(subject, box=Box(x, y, x + side, y + side))
        frames.append(replace(scene, items=(moved, *still)))
    return tuple(frames)
