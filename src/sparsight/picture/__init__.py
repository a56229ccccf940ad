"""The picture of a run: which visual tokens lived through each site, painted over what the model saw. Pillow only.

One row per image, tile group or frame, one panel per site behind the image: kept patches are
outlined, dropped ones lie under a veil, clustered ones are tinted and their centres framed. What
the image processor cut off is struck out.
"""

from sparsight.picture.finished import Finished, name_of, picture_of
from sparsight.picture.given import words_of
from sparsight.picture.panels import Panel, Shown, check_drawable, panels
from sparsight.picture.sheet import Words, draw

__all__ = [
    "Finished",
    "Panel",
    "Shown",
    "Words",
    "check_drawable",
    "draw",
    "name_of",
    "panels",
    "picture_of",
    "words_of",
]
