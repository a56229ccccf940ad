"""Layout: where in its image each visual token of a sample lies. One type for methods, evidence and pictures. Pure.

Families read it once a prompt; nothing else guesses rows and columns.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch

Grid = tuple[int, int]  # rows and columns of visual tokens in raster order
NOWHERE = -1


class Block(NamedTuple):
    """Visual tokens that stand together: one grid, and what is no patch in front of it, in it and behind it.

    Args:
        rows: of the grid; 0 for tokens that are no patches at all.
        columns: of the grid.
        before: tokens in front of the grid, such as a class token.
        row_end: tokens that end each row.
        after: tokens behind the grid.
        image: number of the image or video in its sample.
        part: number of the grid among those that show the whole image.
        frame: number of the frame in its video.
    """

    rows: int
    columns: int
    before: int = 0
    row_end: int = 0
    after: int = 0
    image: int = 0
    part: int = 0
    frame: int = 0

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
    """

    image: int
    part: int
    frame: int
    size: Grid
    tokens: torch.Tensor


@dataclass(frozen=True, eq=False)  # compared and hashed by identity
class Layout:
    """Where each visual token of a sample lies, before any was removed. All on the host; treat it as read-only.

    Several images side by side are several images. Grids with the same image and frame but another
    `part` show the same whole image: the overview and the fine grid of LLaVA-NeXT. A tile is an
    image of its own, as nothing that a model is given says where its tiles lie: InternVL, Idefics
    3, Aya Vision and others have one image for each tile, in order.

    Args:
        image: (V,) int64, numbered from 0 in the order of the prompt.
        part: (V,) int64, numbered from 0 within each image.
        row: (V,) int64; -1 where a token is no patch: a row end, a class token, an answer to a
            learned query.
        column: (V,) int64; -1 where a token is no patch.
        frame: (V,) int64, numbered from 0 within each video, in the order of time; 0 for stills.
    """

    image: torch.Tensor
    part: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    frame: torch.Tensor

    def __len__(self) -> int:
        """Return V."""
        return len(self.image)

    @cached_property
    def grids(self) -> tuple[PatchGrid, ...]:
        """The grids, in the order of the prompt; () where no token is a patch."""
        places = (self.image, self.part, self.frame, self.row)
        found: dict[tuple[int, int, int], list[int]] = {}
        for token, (image, part, frame, row) in enumerate(
            zip(*(place.tolist() for place in places), strict=True)
        ):
            if row != NOWHERE:
                found.setdefault((image, part, frame), []).append(token)
        return tuple(self._grid(name, torch.tensor(tokens)) for name, tokens in found.items())

    def _grid(self, name: tuple[int, int, int], tokens: torch.Tensor) -> PatchGrid:
        rows, columns = (int(side[tokens].max()) + 1 for side in (self.row, self.column))
        order = (self.row[tokens] * columns + self.column[tokens]).argsort()
        if len(tokens) != rows * columns:
            raise ValueError(
                f"{len(tokens)} visual tokens do not fill a grid of {rows} x {columns}"
            )
        return PatchGrid(*name, (rows, columns), tokens[order])

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
        """Images, videos counted once."""
        return int(self.image.max()) + 1 if len(self) else 0


def count_tokens(layout: Layout | int) -> int:
    """Return V of a sample whose layout is given, or whose number of visual tokens alone."""
    return layout if isinstance(layout, int) else len(layout)


@lru_cache(maxsize=64)
def layout_of(blocks: tuple[Block, ...]) -> Layout:
    """Return the layout of blocks that follow each other; the same object for the same blocks."""
    fields_of = [torch.cat(part) for part in zip(*map(_places, blocks), strict=True)]
    return Layout(
        **{field.name: values for field, values in zip(fields(Layout), fields_of, strict=True)}
    )


def grids_layout(sizes: Iterable[Grid]) -> Layout:
    """Return the layout of images that are one grid each, by their rows and columns."""
    return layout_of(tuple(Block(*size, image=image) for image, size in enumerate(sizes)))


def _places(block: Block) -> tuple[torch.Tensor, ...]:
    rows, columns = torch.meshgrid(
        torch.arange(block.rows), torch.arange(block.columns), indexing="ij"
    )

    def padded(places: torch.Tensor) -> torch.Tensor:
        ended = torch.nn.functional.pad(places, (0, block.row_end), value=NOWHERE).flatten()
        return torch.nn.functional.pad(ended, (block.before, block.after), value=NOWHERE)

    whole = [
        torch.full((block.length,), number) for number in (block.image, block.part, block.frame)
    ]
    return whole[0], whole[1], padded(rows), padded(columns), whole[2]
