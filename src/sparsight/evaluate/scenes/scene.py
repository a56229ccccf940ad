"""Scenes as data: which thing stands where, in what colour, and which words are on signs."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sparsight.evaluate.scenes.catalogue import (
    COLOURS,
    KINDS,
    THINGS,
    WORDS,
    Thing,
    background_names,
)

SIZE = 336  # px, both sides
Pool = Literal["train", "test"]
TextSize = Literal["large", "medium", "small"]
FONT_PX: dict[TextSize, int] = {"large": 40, "medium": 24, "small": 14}

_SIZES: tuple[TextSize, ...] = ("large", "medium", "small")
_EVERY = 4  # every fourth background is kept for testing
_POPULAR = THINGS[::4]  # drawn three times as often as the others
_WEIGHTS = [3.0 if thing in _POPULAR else 1.0 for thing in THINGS]
_GAP = 6  # px between things
_TRIES = 60


@dataclass(frozen=True)
class Box:
    """A rectangle in px, right and bottom exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) of its middle."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    def touches(self, other: "Box", gap: int = _GAP) -> bool:
        """Whether less than `gap` px lie between the two."""
        apart = self.right + gap <= other.left or other.right + gap <= self.left
        return not (apart or self.bottom + gap <= other.top or other.bottom + gap <= self.top)


@dataclass(frozen=True)
class Item:
    """A thing in a scene.

    Args:
        thing: its name.
        colour: the colour it is painted in; None leaves its own.
        box: the square that its picture fits into.
        mirrored: whether left and right are swapped.
        turned: degrees that it is turned by.
    """

    thing: str
    colour: str | None
    box: Box
    mirrored: bool = False
    turned: int = 0

    @property
    def label(self) -> str:
        """Its name, with the colour if it has one of its own."""
        return self.thing if self.colour is None else f"{self.colour} {self.thing}"


@dataclass(frozen=True)
class Sign:
    """A word or number on a coloured plate.

    Args:
        text: as it is written on the plate.
        font: px of the font; the plate's text is centred.
        colour: of the plate.
        box: the plate.
    """

    text: str
    font: int
    colour: str
    box: Box

    @property
    def noun(self) -> str:
        """What is asked for: word or number."""
        return "number" if self.text.isdigit() else "word"


@dataclass(frozen=True)
class Paper:
    """A sheet with rows of a label on the left and a value on the right, as on a receipt.

    Args:
        box: the sheet.
        font: px of the font.
        rows: (label, value) from top to bottom, as they are written.
    """

    box: Box
    font: int
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Scene:
    """A photograph or texture with things, signs and sheets on it.

    Args:
        background: name of the photograph.
        corner: (x, y) of the crop that is shown.
        mirrored: whether the photograph's left and right are swapped.
        items: things, none touching another.
        signs: plates with text.
        papers: sheets with rows of text.
    """

    background: str
    corner: tuple[int, int]
    mirrored: bool
    items: tuple[Item, ...]
    signs: tuple[Sign, ...] = ()
    papers: tuple[Paper, ...] = ()

    @property
    def taken(self) -> tuple[Box, ...]:
        """Boxes of everything on the photograph."""
        things: tuple[Item | Sign | Paper, ...] = (*self.items, *self.signs, *self.papers)
        return tuple(thing.box for thing in things)

    def only(self, name: str) -> Item | None:
        """Return the one thing of that name; None if there is none or there are several."""
        found = [item for item in self.items if item.thing == name]
        return found[0] if len(found) == 1 else None

    @property
    def singles(self) -> tuple[Item, ...]:
        """Things that are the only one of their name."""
        return tuple(item for item in self.items if self.only(item.thing))


def popular() -> tuple[Thing, ...]:
    """Return the things that scenes show most often."""
    return _POPULAR


def backgrounds(pool: Pool) -> tuple[str, ...]:
    """Return the photographs of a pool; none is in both."""
    names = background_names()
    return tuple(name for i, name in enumerate(names) if (i % _EVERY == 0) == (pool == "test"))


def empty_scene(rng: random.Random, pool: Pool, size: int) -> Scene:
    """Return a scene with nothing on it: a background and the place of its crop, both drawn.

    Args: size: side of the photograph in px.
    """
    corner = (rng.randrange(size - SIZE + 1), rng.randrange(size - SIZE + 1))
    return Scene(rng.choice(backgrounds(pool)), corner, rng.random() < 0.5, ())


def place_box(rng: random.Random, width: int, height: int, taken: Sequence[Box]) -> Box | None:
    """Find room for a rectangle; None if none was found."""
    for _ in range(_TRIES):
        left, top = rng.randrange(SIZE - width + 1), rng.randrange(SIZE - height + 1)
        box = Box(left, top, left + width, top + height)
        if not any(box.touches(other) for other in taken):
            return box
    return None


def draw_things(rng: random.Random, count: int) -> list[Thing]:
    """Draw different things, most of them of one kind, so that what is absent is plausible."""
    theme = rng.choice(KINDS)
    drawn: list[Thing] = []
    while len(drawn) < count:
        weights = _WEIGHTS
        if rng.random() < 0.6:
            weights = [w * (thing.kind == theme) for w, thing in zip(_WEIGHTS, THINGS, strict=True)]
        thing = rng.choices(THINGS, weights)[0]
        if thing not in drawn:
            drawn.append(thing)
    return drawn


def add_items(
    scene: Scene,
    rng: random.Random,
    things: Sequence[Thing],
    sides: tuple[int, int],
    painted: float = 0.6,
) -> Scene:
    """Put things on a scene where there is room, each `sides` px large; a share of them painted."""
    items = list(scene.items)
    for thing in things:
        side = rng.randrange(sides[0], sides[1] + 1)
        box = place_box(rng, side, side, list(_boxes(scene, items)))
        if box is not None:
            colour = rng.choice(tuple(COLOURS)) if rng.random() < painted else None
            items.append(Item(thing.name, colour, box, rng.random() < 0.5, rng.randrange(-12, 13)))
    return replace(scene, items=tuple(items))


def add_signs(scene: Scene, rng: random.Random, count: int, size: TextSize | None = None) -> Scene:
    """Put plates of different colours on a scene, each with a word or a two-digit number."""
    signs = list(scene.signs)
    for colour in rng.sample(tuple(COLOURS), count):
        text = str(rng.randrange(10, 100)) if rng.random() < 0.35 else rng.choice(WORDS)
        chosen = rng.choice(_SIZES) if size is None else size
        font = FONT_PX[chosen]
        width, height = round(font * (0.66 * len(text) + 0.7)), round(font * 1.5)
        box = place_box(
            rng, width, height, [*_boxes(scene, scene.items), *(sign.box for sign in signs)]
        )
        if box is not None:
            signs.append(Sign(text, font, colour, box))
    return replace(scene, signs=tuple(signs))


def _boxes(scene: Scene, items: Sequence[Item]) -> Iterator[Box]:
    yield from (item.box for item in items)
    yield from (sign.box for sign in scene.signs)
