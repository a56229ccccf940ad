"""What scenes are made of: named things, colours, words, photographs. Knows no layout."""

import functools
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

ASSETS = Path(__file__).parent / "assets"
BACKGROUND_SIZE = 448  # a scene shows a crop of it

_NAMES = {
    "animal": "dog cat horse cow pig sheep duck owl penguin fish whale octopus crab turtle snake "
    "frog rabbit elephant lion monkey butterfly snail",
    "food": "apple banana grapes strawberry pineapple carrot corn mushroom pizza cake bread cheese",
    "vehicle": "car bus truck bicycle train boat airplane rocket helicopter tractor",
    "object": "clock book key umbrella guitar drum camera chair bell hat shoe cup gift balloon "
    "hammer scissors house tent anchor candle",
}
_PLURALS = {
    "sheep": "sheep",
    "fish": "fish",
    "butterfly": "butterflies",
    "strawberry": "strawberries",
    "octopus": "octopuses",
    "bus": "buses",
}
_UNCOUNTED = frozenset({"grapes", "bread", "cheese", "corn", "scissors"})

_WORDS = (
    "bank beach bread cafe city coffee east exit farm fish flower fresh game garden gold green",
    "hotel house ice juice king lake market menu milk moon museum music north ocean open park",
    "pizza queen river road sale salt school shop silver south star station stop street sugar",
    "summer taxi tea tower train water west winter wood world zoo",
)

_GOODS = (  # what sheets list, no name longer than 8 letters
    "apple bacon banana beans beer bread butter cake carrot cheese coffee corn cream egg fish",
    "flour garlic grapes ham honey ice jam juice lemon melon milk nuts oil onion orange pasta",
    "peach pepper pizza potato rice salad salt soap soup sugar tea tomato water wine yogurt",
)

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (224, 32, 36),
    "orange": (250, 134, 16),
    "yellow": (248, 214, 20),
    "green": (30, 164, 56),
    "blue": (32, 92, 228),
    "purple": (134, 44, 186),
    "pink": (250, 130, 186),
    "black": (44, 44, 48),
}
WORDS = tuple(word for line in _WORDS for word in line.split())
GOODS = tuple(word for line in _GOODS for word in line.split())


@dataclass(frozen=True)
class Thing:
    """A kind of thing that can stand in a scene.

    Args:
        name: one English word.
        kind: animal, food, vehicle or object.
        plural: the word for several, None for what is not counted.
    """

    name: str
    kind: str
    plural: str | None

    @property
    def article(self) -> str:
        """Its name with the indefinite article, which what is not counted goes without."""
        return with_article(self.name)


def _things() -> tuple[Thing, ...]:
    rows = [(name, kind) for kind, names in _NAMES.items() for name in names.split()]
    return tuple(
        Thing(name, kind, None if name in _UNCOUNTED else _PLURALS.get(name, f"{name}s"))
        for name, kind in rows
    )


THINGS = _things()
KINDS = tuple(_NAMES)


def with_article(words: str) -> str:
    """Return "a cat", "an owl"; "bread" for what is not counted."""
    if words in _UNCOUNTED:
        return words
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


@functools.cache
def thing_image(name: str) -> Image.Image:
    """Return a thing's picture, RGBA, cropped to what is visible."""
    return Image.open(ASSETS / "things" / f"{name}.webp").convert("RGBA")


@functools.cache
def background_names() -> tuple[str, ...]:
    """Return the names of all photographs and textures, in order."""
    return tuple(sorted(path.stem for path in (ASSETS / "backgrounds").glob("*.webp")))


@functools.cache
def background_image(name: str) -> Image.Image:
    """Return a photograph or texture, RGB, BACKGROUND_SIZE x BACKGROUND_SIZE."""
    return Image.open(ASSETS / "backgrounds" / f"{name}.webp").convert("RGB")
