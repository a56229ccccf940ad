"""Rotary positions (M-RoPE) of a prompt whose images were shortened. Tensors only, no vLLM.

A token of an image has the number of the text before the image plus its frame, row and column; the
text behind it goes on at the largest side of the whole image, whichever tokens stay. So positions
of text are known before an image is encoded, those inside an image when its tokens were chosen.

Positions travel as extra channels of the image's embeddings, as whole numbers in two digits: half
precision holds whole numbers up to 256 exactly, and no larger ones.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from sparsight.errors import PromptError

BASE = 256  # of the two digits of a coordinate
CHANNELS = 6  # two for each of frame, row and column


class Span(NamedTuple):
    """An image of a prompt.

    Args:
        start: index of its first token.
        kept: how many tokens it has.
        grid: frames, rows and columns of the visual tokens of the whole image.
    """

    start: int
    kept: int
    grid: tuple[int, int, int]


def write_positions(places: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """Return frame, row and column of some tokens of an image in two digits each, (K, 6) int64.

    Args:
        places: (K,) int64, of the image's tokens in raster order.
        grid: frames, rows and columns.
    """
    rows, columns = grid[1:]
    frame = places // (rows * columns)
    row = places // columns % rows
    where = torch.stack([frame, row, places % columns], dim=1)
    return torch.stack([where // BASE, where % BASE], dim=2).flatten(1)


def read_positions(channels: torch.Tensor) -> torch.Tensor:
    """Return (3, K) int64 frame, row and column of what `write_positions` wrote, in any dtype."""
    digits = channels.to(torch.float32).round().long()
    return (digits[:, 0::2] * BASE + digits[:, 1::2]).T


def lay_positions(length: int, spans: Sequence[Span]) -> tuple[torch.Tensor, int]:
    """Return the positions of a prompt, those inside images provisional, and what follows them.

    Args:
        length: L, tokens of the prompt.
        spans: its images, in order.
    Returns: (3, L) int64, and the next position minus L.
    """
    parts = []
    at = place = 0
    for span in spans:
        parts.append(_count_on(place, span.start - at))
        place += span.start - at
        first = torch.arange(span.kept)  # the true ones come with the embeddings
        parts.append(read_positions(write_positions(first, span.grid)) + place)
        at, place = span.start + span.kept, place + max(span.grid[1:])
    parts.append(_count_on(place, length - at))
    return torch.cat(parts, dim=1), place - at


def _count_on(place: int, count: int) -> torch.Tensor:
    return torch.arange(place, place + count).expand(3, -1)


def place_chosen(
    ids: torch.Tensor, image: int, positions: torch.Tensor, where: torch.Tensor, done: int
) -> torch.Tensor:
    """Return positions with those of tokens whose embeddings have come.

    Works for a prefill in chunks of any size: the embeddings are those of the first placeholders
    that were not computed yet.

    Args:
        ids: (L,) int64 of the prompt.
        image: id of the placeholder.
        positions: (3, L) int64 as they were.
        where: (3, K) int64 frame, row and column of each embedding, in order.
        done: tokens of the prompt that were computed before.
    Returns: (3, L) int64.
    """
    placeholder = ids == image
    at = torch.arange(len(ids), device=ids.device)
    begins = placeholder.clone()
    begins[1:] &= ~placeholder[:-1]
    first = torch.where(begins, at, 0).cummax(0).values
    todo = at[placeholder & (at >= done)][: where.shape[1]]
    result = positions.clone()
    start = first[todo]
    base = torch.where(start > 0, positions[:, start - 1] + 1, 0)  # (3, K)
    result[:, todo] = where.to(positions) + base
    return result


def check_surrounded(ids: Sequence[int], image: int) -> None:
    """Check that text stands between images and behind them, from which positions are counted.

    Args:
        ids: of the prompt, with one placeholder for each image.
        image: id of the placeholder.
    Raises: PromptError: two placeholders follow each other, or the prompt ends with one.
    """
    if any(one == other == image for one, other in pairwise(ids)) or list(ids[-1:]) == [image]:
        raise PromptError(
            "an image is followed by another one or by nothing; write the prompt as the model's "
            "chat template does, which puts marks around each image."
        )
