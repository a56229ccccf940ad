"""What each visual token should stand for: the words for what its patch shows, and where it is.

A visual token's target is the sum of three vectors in the decoder's own space: the embedding of the
name of the thing under its patch, the embedding of its colour, and a weak code of its row and
column. The first two are what the decoder's attention already knows how to find (`README.md`). The
code takes little of that and says where things are, which one-dimensional positions hardly do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from easy_vqa import EasyVQA
from features import PATCH
from PIL import Image

from sparsight.evaluate.scenes.catalogue import COLOURS, THINGS, WORDS
from sparsight.evaluate.scenes.render import placed
from sparsight.evaluate.scenes.scene import SIZE, Box, Scene

GRID = SIZE // PATCH
NOTHING = "background"
NAMES = (
    NOTHING,
    *dict.fromkeys([*(thing.name for thing in THINGS), *WORDS, "circle", "rectangle", "triangle"]),
)
DIGITS = tuple("0123456789")
PAINTS = (NOTHING, *dict.fromkeys([*COLOURS, "teal"]))
_COVERED = 0.4  # share of a patch that shows a thing for the patch to stand for it
_PLACE = 0.4  # length of the code of row and column, in lengths of an embedding
_INK = 40  # difference from the corner's pixel, 0 to 255, that makes a pixel part of a drawn shape


@dataclass(frozen=True)
class Names:
    """Words that visual tokens can stand for.

    Args:
        words: in the order of their numbers.
        embeddings: (W, D) what the decoder reads for them; 0 for NOTHING.
        directions: (W, D) the same, centred, of length 1.
    """

    words: tuple[str, ...]
    embeddings: torch.Tensor
    directions: torch.Tensor

    @classmethod
    def of(cls, words: tuple[str, ...], processor: Any, embedding: torch.Tensor) -> Names:
        """Looks up the embeddings; a word of several tokens gives their mean, a digit stands without a space."""
        texts = [word if word.isdigit() else f" {word}" for word in words]
        ids = [processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        rows = torch.stack([embedding[i].float().mean(0) for i in ids])
        centred = rows - embedding.float().mean(0)
        rows = rows * torch.tensor([[word != NOTHING] for word in words])
        return cls(words, rows, centred / centred.norm(dim=-1, keepdim=True))


def labels(scene: Scene, grid: int = GRID) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers of name and colour that each patch shows, both (grid^2,) in raster order."""
    names, paints = np.zeros((grid, grid), np.int16), np.zeros((grid, grid), np.int16)
    for item in scene.items:
        here = _coverage(*placed(item), grid) >= _COVERED
        names[here], paints[here] = NAMES.index(item.thing), PAINTS.index(item.colour or NOTHING)
    for sign in scene.signs:
        for row, column in covered(sign.box, grid):
            names[row, column] = _written(sign.text, sign.box, (column + 0.5) * SIZE / grid)
            paints[row, column] = PAINTS.index(sign.colour)
    return names.ravel(), paints.ravel()


def _written(text: str, box: Box, x: float) -> int:
    """Returns the number of a sign's word; of a number, that of the digit over a place."""
    if not text.isdigit():
        return NAMES.index(text)
    share = (x - box.left) / (box.right - box.left)
    return len(NAMES) + int(text[min(len(text) - 1, max(0, int(share * len(text))))])


def _coverage(image: Image.Image, corner: tuple[int, int], grid: int) -> np.ndarray:
    """Returns the share of each patch that an RGBA image covers, (grid, grid) in [0, 1]."""
    canvas = Image.new("L", (SIZE, SIZE))
    canvas.paste(image.getchannel("A"), corner)
    return np.asarray(canvas.resize((grid, grid), Image.Resampling.BOX), np.float32) / 255


def covered(box: Box, grid: int = GRID) -> list[tuple[int, int]]:
    """Returns (row, column) of the patches that a box covers mostly."""
    canvas = Image.new("L", (SIZE, SIZE))
    canvas.paste(255, (box.left, box.top, box.right, box.bottom))
    shares = np.asarray(canvas.resize((grid, grid), Image.Resampling.BOX)) / 255
    return [(int(row), int(column)) for row, column in np.argwhere(shares >= _COVERED)]


def shape_labels(source: EasyVQA, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers of shape and colour for the patches of drawn images, both (count, GRID^2)."""
    names, paints = np.zeros((count, GRID**2), np.int16), np.zeros((count, GRID**2), np.int16)
    asked = source.by_image()
    for number in range(count):
        pixels = np.asarray(source.image(number), np.int16)
        ink = (np.abs(pixels - pixels[0, 0]).max(-1) > _INK).astype(np.uint8) * 255
        here = (
            np.asarray(Image.fromarray(ink).resize((GRID, GRID), Image.Resampling.BOX)).ravel()
            >= 255 * _COVERED
        )
        for question in asked[number]:
            if question.answer in NAMES:
                names[number, here] = NAMES.index(question.answer)
            elif question.answer in PAINTS:
                paints[number, here] = PAINTS.index(question.answer)
    return names, paints


def places(grid: int, width: int) -> torch.Tensor:
    """Returns a code of length 1 for each patch, (grid^2, width), near for patches that are near each other."""
    line = (torch.arange(grid) + 0.5) / grid * math.pi
    waves = torch.stack(
        [wave(turns * line) for turns in (1, 2) for wave in (torch.cos, torch.sin)], -1
    )  # (grid, 4)
    both = (
        torch.cat([waves.repeat_interleave(grid, 0), waves.repeat(grid, 1)], -1) / 2
    )  # (grid^2, 8)
    basis = torch.linalg.qr(torch.randn(width, 8, generator=torch.Generator().manual_seed(0)))[0]
    found: torch.Tensor = both @ basis.T
    return found


class Dictionary:
    """Everything visual tokens can stand for, as vectors of one decoder.

    Args:
        processor: its processor.
        embedding: (vocabulary, D) its input embedding.
    """

    def __init__(self, processor: Any, embedding: torch.Tensor) -> None:
        self.names = Names.of((*NAMES, *DIGITS), processor, embedding)
        self.paints = Names.of(PAINTS, processor, embedding)
        self.length = float(embedding.float().norm(dim=-1).median())
        self._places = {
            grid: _PLACE * self.length * places(grid, embedding.shape[1])
            for grid in (GRID, GRID // 2)
        }

    def meant(self, names: torch.Tensor, paints: torch.Tensor) -> torch.Tensor:
        """Returns the targets, (b, grid^2, D), from numbers of names and colours, (b, grid^2)."""
        where = self._places[round(names.shape[1] ** 0.5)]
        return self.names.embeddings[names] + self.paints.embeddings[paints] + where
