"""Videos of a sample: which visual tokens are whose frames, and how many of them stay.

A still, which is an image or a video of one frame, is no clip.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sparsight.counts.layout import Layout, PatchGrid
from sparsight.methods.parts.cells import share


@dataclass(frozen=True, eq=False)
class Clip:
    """One video of a layout.

    Args:
        image: its number among the images and videos of its sample.
        frames: T, at least 2.
        size: n, patches of a frame.
        tokens: (T n,) int64 on the host, frame after frame in raster order.
    """

    image: int
    frames: int
    size: int
    tokens: torch.Tensor


CountLeast = Callable[[Clip], int]  # how many tokens of a clip stay at least


def list_clips(layout: Layout) -> tuple[Clip, ...]:
    """Return the videos of a layout, in the order of the prompt."""
    grids_of: dict[int, list[PatchGrid]] = {}
    for grid in layout.grids:
        grids_of.setdefault(grid.image, []).append(grid)
    clips = []
    for image, grids in grids_of.items():
        if grids[-1].frame > 0:
            tokens = torch.cat([grid.tokens for grid in grids])
            clips.append(Clip(image, len(grids), len(grids[0].tokens), tokens))
    return tuple(clips)


def list_stills(layout: Layout, clips: Sequence[Clip]) -> torch.Tensor:
    """Return the tokens of all images that are no clip, ascending: (E,) int64 on the host."""
    numbers = torch.tensor([clip.image for clip in clips], dtype=torch.int64)
    return (~torch.isin(layout.image, numbers)).nonzero().flatten()


def share_by_clip(
    layout: Layout, count: int, count_least: CountLeast
) -> tuple[torch.Tensor, list[tuple[Clip, int]]]:
    """Return the tokens that stay whatever is chosen, and how many each clip keeps beside them.

    Stills stay whole, and clips share what is left by their sizes. Tokens of clips that are no
    patch are kept only where the count is higher than there are patches.

    Args:
        layout: of V tokens.
        count: K in 1..V, at least the tokens of stills and the least of all clips.
    Returns: (E,) int64 on the host, and each clip with its count.
    """
    clips = list_clips(layout)
    stills = list_stills(layout, clips)
    sizes = [len(clip.tokens) for clip in clips]
    patches = min(count - len(stills), sum(sizes))
    others = layout.others[~torch.isin(layout.others, stills)]
    whole = torch.cat([stills, others[: count - len(stills) - patches]])
    parts = share(patches, sizes, least=[count_least(clip) for clip in clips])
    return whole, list(zip(clips, parts, strict=True))
