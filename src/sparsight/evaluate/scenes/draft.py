"""Composes a whole suite: how many questions of which part, about which scenes, and writes it."""

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from math import isinf
from pathlib import Path

from PIL import Image

from sparsight.errors import SettingError
from sparsight.evaluate.scenes import ask
from sparsight.evaluate.scenes.ask import Turn
from sparsight.evaluate.scenes.catalogue import with_article
from sparsight.evaluate.scenes.compose import (
    FRAMES,
    MOST,
    STEPS,
    Clip,
    compose_clip,
    compose_counting,
    compose_reading,
    compose_things,
)
from sparsight.evaluate.scenes.render import CLIP_SIZE, render, render_clip
from sparsight.evaluate.scenes.scene import SIZE, Box, Pool, Scene, TextSize
from sparsight.evaluate.scenes.suite import Question, write_questions

_SHARED = 90  # scenes that several families ask about
_TRIES = 400

Picture = Scene | Clip
Asker = Callable[[Scene, random.Random], Turn | None]
Made = tuple[dict[str, Picture], tuple[Turn, ...]]  # pictures by name, and what is asked about them


@dataclass(frozen=True)
class Dice:
    """Gives every drawing its own random numbers, so that none depends on another."""

    seed: int
    pool: Pool

    def of(self, *name: object) -> random.Random:
        """Return the random numbers of one drawing."""
        return random.Random("/".join(map(str, (self.seed, self.pool, *name))))  # noqa: S311 - not secrets

    def shared(self, index: int) -> tuple[str, Scene]:
        """Return one of the scenes that several families ask about, and its name."""
        name = f"things-{index % _SHARED:03}"
        return name, compose_things(self.of(name), self.pool)


@dataclass(frozen=True)
class Draft:
    """A composed suite.

    Args:
        questions: in the order of the families.
        pictures: by name, without ending.
        quality: of WebP.
    """

    questions: list[Question] = field(default_factory=list)
    pictures: dict[str, Picture] = field(default_factory=dict)
    quality: int = 86

    def write(self, folder: Path) -> None:
        """Draw the pictures and write the suite into a folder."""
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for name, picture in self.pictures.items():
            image = _strip(picture) if isinstance(picture, Clip) else render(picture)
            image.save(folder / "images" / f"{name}.webp", quality=self.quality, method=6)
        write_questions(self.questions, folder)


Asked = tuple[tuple[str, ...], str]  # files, and what is asked about them
Maker = Callable[[Dice, random.Random, int, int], Made | None]
Parts = dict[
    tuple[str, str], tuple[int, Maker]
]  # by family and part: how many questions, and what makes one


def draft_suite(dice: Dice, parts: Parts, share: float = 1.0, repeats: bool = True) -> Draft:
    """Compose a suite.

    Args:
        dice: of everything drawn.
        parts: what the suite consists of.
        share: of the full number of questions in each part, at least one.
        repeats: whether a question may come twice, about the same picture.

    Raises: SettingError: the share is not above 0, or asks for more than can be found.
    """
    if not share > 0 or isinf(share):
        raise SettingError(f"share={share!r} is out of range; give a number above 0, as 0.5.")
    draft, asked = Draft(), set[Asked]()
    for (family, split), (count, make) in parts.items():
        for number in range(max(1, round(count * share))):
            name = "-".join(filter(None, (family, split.replace(" ", "-"), f"{number:03}")))
            made = _find_question(dice, make, name, number, set() if repeats else asked)
            if made is None:
                raise SettingError(
                    f"share={share:g} asks for more questions than the pictures allow: none was "
                    f"found for {name} in {_TRIES} attempts; give a smaller share, and draw more "
                    "suites from other seeds."
                )
            pictures, turns = made
            files, _ = _name_asked(made)
            asked.add(_name_asked(made))
            draft.pictures.update(pictures)
            frames = FRAMES if family == "clip" else 0
            draft.questions.append(Question(name, family, split, files, frames, turns))
    return draft


def _find_question(
    dice: Dice, make: Maker, name: str, number: int, asked: Collection[Asked]
) -> Made | None:
    """Return a question that was not asked yet; None where none was found."""
    for attempt in range(_TRIES):
        made = make(dice, dice.of(name, attempt), number, attempt)
        if made is not None and _name_asked(made) not in asked:
            return made
    return None


def _name_asked(made: Made) -> Asked:
    """Return the files that a question is about, and its last turn."""
    pictures, turns = made
    return tuple(f"{picture}.webp" for picture in pictures), turns[-1].question


def first_edition() -> Parts:
    """Return the parts of the first edition, whose things are large."""
    sizes: tuple[TextSize, ...] = ("large", "medium", "small")
    return {
        **{("existence", how): (32, partial(_existence, how)) for how in ask.EXISTENCE},
        ("attribute", "color"): (32, partial(_on_shared, ask.colour)),
        ("attribute", "kind"): (20, partial(_on_shared, ask.kind)),
        ("relation", "one-step"): (30, partial(_on_shared, ask.relation)),
        ("relation", "two-step"): (24, partial(_on_shared, ask.two_steps)),
        **{("reading", size): (24, partial(_reading, size)) for size in sizes},
        ("counting", ""): (6 * (MOST + 1), _counting),
        ("place", ""): (36, partial(_on_shared, ask.place)),
        ("two-turn", ""): (30, _two_turns),
        ("multi-image", "two"): (15, partial(_several, 2)),
        ("multi-image", "three"): (15, partial(_several, 3)),
        ("clip", "motion"): (20, partial(_clip, "motion")),
        ("clip", "event"): (16, partial(_clip, "event")),
    }


def _on_shared(
    make: Asker, dice: Dice, rng: random.Random, number: int, attempt: int
) -> Made | None:
    name, scene = dice.shared(number + 7 * attempt)
    made = make(scene, rng)
    return ({name: scene}, (made,)) if made else None


def _existence(how: str, dice: Dice, rng: random.Random, number: int, attempt: int) -> Made | None:
    wanted: Asker = partial(ask.absent, how=how) if number % 2 else ask.present
    return _on_shared(wanted, dice, rng, number, attempt)


def _reading(
    size: TextSize, dice: Dice, rng: random.Random, number: int, attempt: int
) -> Made | None:
    name = f"reading-{size}-{number:03}"
    scene = compose_reading(dice.of(name, attempt), dice.pool, size)
    made = ask.reading(scene, rng)
    return ({name: scene}, (made,)) if made else None


def _counting(dice: Dice, rng: random.Random, number: int, attempt: int) -> Made | None:
    name, count = f"counting-{number:03}", number % (MOST + 1)
    scene = compose_counting(dice.of(name, attempt), dice.pool, count)
    made = ask.counting(scene, rng)
    return ({name: scene}, (made,)) if made and made.answer == str(count) else None


def _two_turns(dice: Dice, rng: random.Random, number: int, attempt: int) -> Made | None:
    name, scene = dice.shared(number + 7 * attempt)
    made = [make(scene, rng) for make in rng.sample((ask.colour, ask.place, ask.relation), 2)]
    first, second = made
    if not first or not second or set(first.boxes[0]) & set(second.boxes[0]):
        return None
    return {name: scene}, (first, second)


def _several(count: int, dice: Dice, rng: random.Random, number: int, attempt: int) -> Made | None:
    shown = dict(dice.shared(index) for index in rng.sample(range(_SHARED), count))
    turn = which_image(list(shown.values()), rng)
    return (dict(shown), (turn,)) if turn else None


def which_image(scenes: list[Scene], rng: random.Random) -> Turn | None:
    """Ask which of several scenes shows something that only one of them does."""
    index = rng.randrange(len(scenes))
    others = {item.thing for i, scene in enumerate(scenes) if i != index for item in scene.items}
    free = [item for item in scenes[index].singles if item.thing not in others]
    if not free:
        return None
    item = rng.choice(free)
    boxes = tuple((item.box,) if i == index else () for i in range(len(scenes)))
    return Turn(f"Which image shows {with_article(item.thing)}?", ask.ORDINALS[index], boxes)


def _clip(split: str, dice: Dice, rng: random.Random, number: int, attempt: int) -> Made | None:
    del rng
    name = f"clip-{split}-{number:03}"
    clip = compose_clip("/".join(map(str, (dice.seed, dice.pool, name, attempt))), dice.pool)
    turn = about_clip(clip)
    return (
        ({name: clip}, (turn,))
        if (clip.event in ("appears", "disappears")) == (split == "event")
        else None
    )


def about_clip(clip: Clip) -> Turn:
    """Ask which way the thing moves, or what appears or disappears.

    Boxes are in px of the frames as they are drawn, CLIP_SIZE wide.
    """
    scale = CLIP_SIZE / SIZE
    boxes = tuple(_boxes_of(clip.subject, frame, scale) for frame in clip.frames)
    if clip.event not in STEPS:
        return Turn(f"What {clip.event} in the video?", clip.subject, boxes)
    return Turn(f"Which way does the {clip.subject} move?", clip.event, boxes)


def _boxes_of(name: str, frame: Scene, scale: float) -> tuple[Box, ...]:
    return tuple(_scaled(item.box, scale) for item in frame.items if item.thing == name)


def _scaled(box: Box, scale: float) -> Box:
    return Box(*(round(side * scale) for side in (box.left, box.top, box.right, box.bottom)))


def _strip(clip: Clip) -> Image.Image:
    strip = Image.new("RGB", (CLIP_SIZE * len(clip.frames), CLIP_SIZE))
    for number, frame in enumerate(render_clip(clip)):
        strip.paste(frame, (CLIP_SIZE * number, 0))
    return strip
