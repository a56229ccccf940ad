"""The training questions on scenes: every scene and clip follows from a number, none is of the evaluation split."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from features import Pictures
from PIL import Image

from sparsight.evaluate.scenes import ask
from sparsight.evaluate.scenes.ask import Turn
from sparsight.evaluate.scenes.catalogue import THINGS
from sparsight.evaluate.scenes.compose import Clip, compose, compose_clip
from sparsight.evaluate.scenes.draft import about_clip, which_image
from sparsight.evaluate.scenes.render import CLIP_SIZE, render, render_clip
from sparsight.evaluate.scenes.scene import SIZE, Scene

SEED = "train-1"
_TIMES: tuple[tuple[str, Callable[[Scene, random.Random], Turn | None], int], ...] = (
    ("existence", ask.present, 3),
    ("existence", partial(ask.absent, how="random"), 1),
    ("existence", partial(ask.absent, how="popular"), 1),
    ("existence", partial(ask.absent, how="adversarial"), 1),
    ("attribute", ask.colour, 3),
    ("attribute", ask.kind, 1),
    ("relation", ask.relation, 2),
    ("relation", ask.two_steps, 1),
    ("reading", ask.reading, 2),
    ("counting", ask.counting, 1),
    ("place", ask.place, 3),
    ("caption", ask.caption, 1),
)


FACTS = "Look up these things."


def scene(number: int) -> Scene:
    """Returns the training scene of a number."""
    return compose(f"{SEED}/{number}", "train")


def clip(number: int) -> Clip:
    """Returns the training clip of a number."""
    return compose_clip(f"{SEED}/clip/{number}", "train")


def turns(of: Scene, rng: random.Random) -> list[tuple[str, Turn]]:
    """Draws questions about a scene, with their family: of every one that it allows, the same question never twice."""
    made = [(family, make(of, rng)) for family, make, times in _TIMES for _ in range(times)]
    return list({turn.question: (family, turn) for family, turn in made if turn}.values())


def facts(of: Scene, rng: random.Random) -> tuple[tuple[str, bool], ...]:
    """Draws a table of things, some of them absent: names are given; colour and place, or absence, are to be said.

    A question costs twenty tokens and teaches one word; a line of this table costs six and teaches
    three.
    """
    here = list(of.singles)
    away = [
        thing.name for thing in THINGS if not any(item.thing == thing.name for item in of.items)
    ]
    lines = [
        (item.thing, f" {item.colour or 'plain'} {ask.cell(item.box) or 'between'}\n")
        for item in here
    ]
    lines += [(name, " none\n") for name in rng.sample(away, rng.randrange(2, 6))]
    lines += [
        (f"{sign.colour} sign", f" {sign.text} {ask.cell(sign.box) or 'between'}\n")
        for sign in of.signs
    ]
    rng.shuffle(lines)
    return tuple(piece for name, found in lines for piece in ((f" {name}:", False), (found, True)))


def neighbours(of: Scene, rng: random.Random) -> tuple[tuple[str, bool], ...]:
    """Draws a table of what is left of, right of, above, below or next to what."""
    found = ask.relations(of)
    rng.shuffle(found)
    lines = [
        (f" {words} the {anchor.thing}:", f" {item.label}\n") for words, anchor, item in found[:6]
    ]
    return tuple(piece for asked, answer in lines for piece in ((asked, False), (answer, True)))


def clip_turns(of: Clip, rng: random.Random) -> list[Turn]:
    """Draws questions about a clip: what happens in it, and what its first frame shows."""
    still = [
        make(of.frames[0], rng)
        for make in (ask.present, partial(ask.absent, how="random"), ask.colour, ask.place)
    ]
    found = [
        replace(turn, question=turn.question.replace("image", "video")) for turn in still if turn
    ]
    return [about_clip(of), *(turn for turn in found if of.subject not in turn.question)]


def image_turns(scenes: list[Scene], rng: random.Random) -> list[Turn]:
    """Draws up to six questions on which of several scenes shows something."""
    made = [which_image(scenes, rng) for _ in range(6)]
    return list({turn.question: turn for turn in made if turn}.values())


def scene_pictures(count: int) -> Pictures:
    """Returns the training scenes' pictures."""
    return Pictures("scenes", count, SIZE, lambda number: render(scene(number)))


def clip_pictures(count: int) -> Pictures:
    """Returns the training clips' frames, eight in a row for each clip."""

    def frame(number: int) -> Image.Image:
        return render_clip(clip(number // 8))[number % 8]

    return Pictures("clips", 8 * count, CLIP_SIZE, frame)
