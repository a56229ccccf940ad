"""Scenes: composed photographs with questions whose evidence is known, box by box.

A seed gives the same layout on every machine. The split that ships is used as it lies on the disk;
others are made with `compose_suite(seed, pool).write(folder)`.
"""

from sparsight.evaluate.scenes.ask import Turn
from sparsight.evaluate.scenes.draft import Draft, compose_suite
from sparsight.evaluate.scenes.scene import Box
from sparsight.evaluate.scenes.suite import FAMILIES, SPLIT, Question, load_images, load_suite

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
