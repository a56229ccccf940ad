"""Scenes: composed photographs with questions whose evidence is known, box by box.

A seed gives the same layout on every machine. The split that ships is used as it lies on the disk; others are made with
`compose_suite(seed, pool).write(folder)`.
"""

from sparsight.scenes.ask import Turn
from sparsight.scenes.draft import Draft, compose_suite
from sparsight.scenes.scene import Box
from sparsight.scenes.suite import FAMILIES, SPLIT, Question, load_images, load_suite

__all__ = [
    "FAMILIES",
    "SPLIT",
    "Box",
    "Draft",
    "Question",
    "Turn",
    "compose_suite",
    "load_images",
    "load_suite",
]
