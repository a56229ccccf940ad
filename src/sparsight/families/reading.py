"""Readers of layouts share this: images and videos follow each other in the placeholders of a batch.

Private details of transformers touched here: features fill the placeholders of their kind in order,
whatever text stands between them; `patch_size` and `image_size` of vision configs; `pooler_output`
of features encoded before.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from math import isqrt
from typing import Any

import torch

from sparsight.counts.layout import Block, Grid, Layout, layout_of

Item = tuple[
    Block, ...
]  # one image or video, in the order of its tokens; its number is filled in by `read`
Layouts = tuple[Layout | None, ...]

IMAGE_IDS = ("image_token_id", "image_token_index")
VIDEO_IDS = ("video_token_id", "video_token_index")


def read(
    config: Any, ids: torch.Tensor, images: Iterable[Item], videos: Iterable[Item] = ()
) -> Layouts:
    """Lay a batch's images and videos on its placeholders.

    Args:
        config: of the base model.
        ids: (B, L) int64 on the host.
        images: of the whole batch, in order; may go on for ever where all are alike.
        videos: of the whole batch.
    Returns: (B,) layouts; None for samples without visual tokens or with others than those of the
    next images.
    """
    left = (iter(images), iter(videos))
    return tuple(_take(row, left) for row in kinds(config, ids))


def kinds(config: Any, ids: torch.Tensor) -> list[list[int]]:
    """Return the kind of each row's visual tokens in order: 0 of an image, 1 of a video."""
    image, video = (
        torch.isin(ids, torch.tensor(_ids(config, names))) for names in (IMAGE_IDS, VIDEO_IDS)
    )
    return [(video & ~image)[b][(image | video)[b]].long().tolist() for b in range(len(ids))]


def _ids(config: Any, names: Sequence[str]) -> list[int]:
    return [
        int(value) for value in (getattr(config, name, None) for name in names) if value is not None
    ]


def _take(row: list[int], left: tuple[Iterator[Item], Iterator[Item]]) -> Layout | None:
    """Take a sample's images and videos off what is left of the batch's."""
    blocks: list[Block] = []
    at = image = 0
    while at < len(row):
        item = next(left[row[at]], None)
        count = 0 if item is None else sum(block.length for block in item)
        if item is None or not count or row[at : at + count] != [row[at]] * count:
            return None
        blocks += [block._replace(image=image) for block in item]
        at, image = at + count, image + 1
    return layout_of(tuple(blocks)) if blocks else None


def alike(config: Any, ids: torch.Tensor, candidates: Iterable[Block]) -> Iterable[Item]:
    """Return the images of a batch that are all alike: the first candidate that divides each run of placeholders."""
    wanted = torch.isin(ids, torch.tensor(_ids(config, IMAGE_IDS))).int()
    edges = torch.nn.functional.pad(wanted, (1, 1)).diff()
    runs = (edges == -1).nonzero()[:, 1] - (edges == 1).nonzero()[:, 1]
    for block in candidates:
        if not bool((runs % block.length).any()):
            return repeat((block,))
    return ()


def frames(count: int, block: Block, after: int = 0) -> Item:
    """Return a video of frames that are all alike, with `after` tokens behind the last one."""
    blocks = [block._replace(frame=frame) for frame in range(count)]
    blocks[-1:] = [block._replace(after=block.after + after) for block in blocks[-1:]]
    return tuple(blocks)


def same(side: int) -> int:
    """Return a side as it is: one visual token a patch."""
    return side


def square_images(
    config: Any,
    ids: torch.Tensor,
    given: Mapping[str, Any],
    merged: Callable[[int], int] = same,
    *,
    before: Sequence[int] = (0,),
    pixels: str = "pixel_values",
) -> Iterable[Item]:
    """Return the images of a batch that are all alike: one grid each.

    Args:
        config: of the base model.
        ids: (B, L) int64 on the host.
        given: arguments of the base model, its images among them.
        merged: makes visual tokens on a side of the patches on it.
        before: how many tokens may stand in front of each grid, the likeliest first.
        pixels: name of the argument that holds the images.
    """
    sizes = _shown(config, given.get(pixels), merged) or _named(config, given, merged)
    return alike(config, ids, [Block(*size, before=n) for size in sizes for n in before])


def patches_of(config: Any, pixels: object) -> Grid | None:
    """Return rows and columns of the patches that pixels (..., H, W) hold; None if they hold less than one."""
    patch = _pair(getattr(config.vision_config, "patch_size", None))
    if not isinstance(pixels, torch.Tensor) or patch is None or pixels.ndim < 4:
        return None
    height, width = pixels.shape[-2:]
    return (
        (height // patch[0], width // patch[1])
        if height >= patch[0] and width >= patch[1]
        else None
    )


def config_patches(config: Any) -> Grid | None:
    """Return rows and columns of the patches that the vision config names."""
    patch, side = (
        _pair(getattr(config.vision_config, name, None)) for name in ("patch_size", "image_size")
    )
    return None if patch is None or side is None else (side[0] // patch[0], side[1] // patch[1])


def _shown(config: Any, pixels: object, merged: Callable[[int], int]) -> list[Grid]:
    patches = patches_of(config, pixels)
    return [] if patches is None else [(merged(patches[0]), merged(patches[1]))]


def _named(config: Any, given: Mapping[str, Any], merged: Callable[[int], int]) -> list[Grid]:
    """Return the squares that features encoded before form, else those that vision config and processor name."""
    images = getattr((given.get("mm_encoder_outputs") or {}).get("image"), "pooler_output", None)
    lengths = (
        set() if images is None else {len(image) for image in images}
    )  # (I, V, D), or a list of (V, D)
    patches = config_patches(config)
    if not lengths and patches is not None:
        lengths = {merged(patches[0]) * merged(patches[1])}
    # an encoder may be used at another size; one token says nothing, as models with images of many
    # sizes name it
    lengths.add(getattr(config, "image_seq_length", None) or 1)
    return [(isqrt(n), isqrt(n)) for n in sorted(lengths) if n > 1 and isqrt(n) ** 2 == n]


def _pair(value: Any) -> Grid | None:
    if isinstance(value, int):
        return value, value
    return (
        (int(value[0]), int(value[1]))
        if isinstance(value, (list, tuple)) and len(value) == 2
        else None
    )
