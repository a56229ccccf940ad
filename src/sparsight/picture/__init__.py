"""Draws which visual tokens were kept at each site, over what the model saw of its images.

Each image, group of tiles or frame has a row: the image, and behind it one panel for each site. In
a panel kept patches are outlined, dropped ones are veiled, recycled ones are tinted with the centre
of their cluster framed, and what the image processor cut off is struck out. Uses Pillow alone.
"""

from sparsight.picture.finished import Finished, name_of, picture_of
from sparsight.picture.given import words_of
from sparsight.picture.panels import Panel, Shown, check_drawable, lay_out_panels
from sparsight.picture.sheet import Words, draw

__all__ = [
    "Finished",
    "Panel",
    "Shown",
    "Words",
    "check_drawable",
    "draw",
    "lay_out_panels",
    "name_of",
    "picture_of",
    "words_of",
]
