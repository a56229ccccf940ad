"""Layout, which says where in its image each visual token of a sample lies. Pure.

Families read it once a prompt. Methods, evidence and pictures take it from there; nothing else
guesses rows and columns.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch

Grid = tuple[int, int]  # rows and columns of visual tokens in raster order
NOWHERE = -1  # row and column of a token that is no patch


class Block(NamedTuple):
    """Visual tokens that follow each other: one grid of patches, and other tokens around it.

    Args:
        rows: of the grid; 0 for tokens that are no patches at all.
        columns: of the grid.
        before: tokens in front of the grid, such as a class token.
        row_end: tokens that end each row.
        after: tokens behind the grid.
        image: number of the image or video in its sample.
        part: number of the grid among those that show the whole image.
        frame: number of the frame in its video, 0 for stills.
        tiles: how many pictures, each encoded on its own, the grid was put together from.
    """

    rows: int
    columns: int
    before: int = 0
    row_end: int = 0
    after: int = 0
    image: int = 0
    part: int = 0
    frame: int = 0
    tiles: int = 1

    @property
    def length(self) -> int:
        """Visual tokens of the block."""
        return self.before + self.rows * (self.columns + self.row_end) + self.after


@dataclass(frozen=True, eq=False)
class PatchGrid:
    """One grid of a layout.

    Args:
        image: number of its image or video.
        part: number of the grid among those that show the whole image.
        frame: number of the frame, 0 for stills.
        size: rows and columns.
        tokens: (rows * columns,) int64, its visual tokens in raster order.
        tiles: how many pictures, each encoded on its own, the grid was put together from.
    """

    image: int
    part: int
    frame: int
    size: Grid
    tokens: torch.Tensor
    tiles: int = 1


@dataclass(frozen=True, eq=False)  # compared and hashed by identity
class Layout:
    """Where each visual token of a sample lies, before any was removed.

    All tensors are on the host; treat them as read-only. Several images side by side are several
    images. Grids of one image and frame with different `part` show the same whole image: the
    overview and the fine grid of LLaVA-NeXT. A tile is an image of its own, because nothing that a
    model is given says where its tiles lie: InternVL, Idefics 3, Aya Vision and others have one
    image for each tile, in order.

    Args:
        image: (V,) int64, numbered from 0 in the order of the prompt.
        part: (V,) int64, numbered from 0 within each image.
        row: (V,) int64; -1 where a token is no patch: a row end, a class token, an answer to a
            learned query.
        column: (V,) int64; -1 where a token is no patch.
        frame: (V,) int64, numbered from 0 within each video, in the order of time; 0 for stills.
        tiles: (V,) int64, how many pictures, each encoded on its own, a token's grid was put
            together from; None where each grid is one.
    """

    image: torch.Tensor
    part: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    frame: torch.Tensor
    tiles: torch.Tensor | None = None

    def __len__(self) -> int:
        """Return V."""
        return len(self.image)

    @cached_property
    def grids(self) -> tuple[PatchGrid, ...]:
        """The grids, in the order of the prompt; () where no token is a patch."""
        keys = list(
            zip(self.image.tolist(), self.part.tolist(), self.frame.tolist(), strict=True)
        )  # (V,) of numbers of image, part and frame
        tokens_of: dict[tuple[int, int, int], list[int]] = {}
        for token in (self.row != NOWHERE).nonzero().flatten().tolist():
            tokens_of.setdefault(keys[token], []).append(token)
        return tuple(
            self._make_grid(key, torch.tensor(tokens)) for key, tokens in tokens_of.items()
        )

    def _make_grid(self, key: tuple[int, int, int], tokens: torch.Tensor) -> PatchGrid:
        """Return the grid of an image, part and frame that these patches fill.

        Raises: ValueError: they do not fill it.
        """
        rows, columns = int(self.row[tokens].max()) + 1, int(self.column[tokens].max()) + 1
        if len(tokens) != rows * columns:
            raise ValueError(
                f"{len(tokens)} visual tokens do not fill a grid of {rows} x {columns}"
            )
        raster = (self.row[tokens] * columns + self.column[tokens]).argsort()
        tiles = 1 if self.tiles is None else int(self.tiles[tokens[0]])
        return PatchGrid(*key, (rows, columns), tokens[raster], tiles)

    @cached_property
    def sizes(self) -> tuple[Grid, ...]:
        """Rows and columns of each grid."""
        return tuple(grid.size for grid in self.grids)

    @cached_property
    def others(self) -> torch.Tensor:
        """Tokens that are no patch, ascending: (E,) int64."""
        return (self.row == NOWHERE).nonzero().flatten()

    @property
    def image_count(self) -> int:
        """How many images there are, a video counted once."""
        return int(self.image.max()) + 1 if len(self) else 0


def count_tokens(layout: Layout | int) -> int:
    """Return V of a sample whose layout is given, or whose number of visual tokens alone."""
    return layout if isinstance(layout, int) else len(layout)


@lru_cache(maxsize=64)
def layout_of(blocks: tuple[Block, ...]) -> Layout:
    """Return the layout of blocks that follow each other; equal blocks give one object."""
    columns = zip(*map(_expand, blocks), strict=True)  # one for each field of Layout, in its order
    return Layout(*(torch.cat(parts) for parts in columns))


def grids_layout(sizes: Iterable[Grid]) -> Layout:
    """Return the layout of images that are one grid each, by their rows and columns."""
    return layout_of(tuple(Block(*size, image=image) for image, size in enumerate(sizes)))


def _expand(block: Block) -> tuple[torch.Tensor, ...]:
    """Return what a layout holds of each token of a block, in its order, six of (length,)."""
    sides = torch.arange(block.rows), torch.arange(block.columns)
    rows, columns = torch.meshgrid(*sides, indexing="ij")  # two of (rows, columns)

    def surround(grid: torch.Tensor) -> torch.Tensor:
        """Put NOWHERE at the end of each row, in front of the grid and behind it."""
        ended = torch.nn.functional.pad(grid, (0, block.row_end), value=NOWHERE).flatten()
        return torch.nn.functional.pad(ended, (block.before, block.after), value=NOWHERE)

    def repeat(number: int) -> torch.Tensor:
        """Return a number for each token of the block."""
        return torch.full((block.length,), number)

    return (
        repeat(block.image),
        repeat(block.part),
        surround(rows),
        surround(columns),
        repeat(block.frame),
        repeat(block.tiles),
    )
