"""Scenes: composed photographs with questions whose evidence is known, box by box.

A seed gives the same layout on every machine. The splits that ship are used as they lie on the
disk; others are made with `compose_suite`.

The second edition, whose evidence is small, in parts (each function is in the module named first):

* `compose_small.compose2(seed, pool, kind) -> Scene`: kinds "small", "counting", "signs", "fine",
  "document", and "mixed" for training; `compose_small.compose_clip2(seed, pool) -> Clip`.
* `render.render(scene)` and `render.render_clip(clip)` draw them.
* `ask_small.ASKERS[family, part] = (kind, ask)`: every question about one scene,
  `ask(scene, rng) -> Turn | None`. Several scenes: `draft.which_image(scenes, rng)` and
  `ask_small.in_one_image(scenes, rng)`; a clip: `draft.about_clip(clip)`.
* `writing.characters(scene) -> ((character, Box), ...)`: every character in a scene with its box in
  px, as wide as the character advances and as high as its ink; `writing.sign_characters(sign)` and
  `writing.row_characters(paper, row)` give those of one sign and of one row.
"""

from sparsight.evaluate.scenes.ask import Turn
from sparsight.evaluate.scenes.draft import Draft
from sparsight.evaluate.scenes.editions import compose_shipped, compose_suite
from sparsight.evaluate.scenes.scene import Box
from sparsight.evaluate.scenes.suite import (
    DEFAULT_SUITE,
    FAMILIES,
    SPLIT,
    SUITES,
    Question,
    load_images,
    load_suite,
)

__all__ = [
    "DEFAULT_SUITE",
    "FAMILIES",
    "SPLIT",
    "SUITES",
    "Box",
    "Draft",
    "Question",
    "Turn",
    "compose_shipped",
    "compose_suite",
    "load_images",
    "load_suite",
]
