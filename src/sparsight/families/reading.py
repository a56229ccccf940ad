"""What readers of layouts share: how images and videos fill the placeholders of a batch.

A layout says where in its image each visual token lies. Private details of transformers touched
here: features fill the placeholders of their kind in order, whatever text stands between them;
`patch_size` and `image_size` of vision configs; `image_seq_length` of configs; `pooler_output` of
features in `mm_encoder_outputs`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from math import isqrt
from typing import Any

import torch

from sparsight.counts.layout import Block, Grid, Layout, layout_of

# one image or video: its blocks in the order of its tokens; `lay_out` sets the number of the image
Item = tuple[Block, ...]
Layouts = tuple[Layout | None, ...]  # (B,)

IMAGE_IDS = ("image_token_id", "image_token_index")
VIDEO_IDS = ("video_token_id", "video_token_index")


def lay_out(
    config: Any, ids: torch.Tensor, images: Iterable[Item], videos: Iterable[Item] = ()
) -> Layouts:
    """Return each sample's layout, by laying images and videos on the placeholders of a batch.

    Args:
        config: of the base model.
        ids: (B, L) int64 on the host.
        images: of the whole batch, in order; endless if all images are alike.
        videos: of the whole batch, in order.
    Returns: (B,) layouts; None for samples without visual tokens, and for samples whose number of
    visual tokens is not that of the next images and videos.
    """
    items = (iter(images), iter(videos))
    return tuple(_take_layout(row, items) for row in read_kinds(config, ids))


def read_kinds(config: Any, ids: torch.Tensor) -> list[list[int]]:
    """Return the kind of each row's visual tokens, in order: 0 of an image, 1 of a video."""
    is_image = torch.isin(ids, torch.tensor(_read_ids(config, IMAGE_IDS)))
    is_visual = is_image | torch.isin(ids, torch.tensor(_read_ids(config, VIDEO_IDS)))
    rows = zip((~is_image).long(), is_visual, strict=True)
    return [is_video[visual].tolist() for is_video, visual in rows]


def _read_ids(config: Any, names: Sequence[str]) -> list[int]:
    """Return the ids that those of the named config fields hold that are set."""
    ids = [getattr(config, name, None) for name in names]
    return [int(value) for value in ids if value is not None]


def _take_layout(row: list[int], items: tuple[Iterator[Item], Iterator[Item]]) -> Layout | None:
    """Return the layout of a sample, and take its images and videos from those of the batch.

    Args:
        row: kinds of the sample's visual tokens, in order.
        items: images and videos of this sample and those behind it.
    """
    blocks: list[Block] = []
    start = image = 0
    while start < len(row):
        kind = row[start]
        item = next(items[kind], None)
        count = 0 if item is None else sum(block.length for block in item)
        if item is None or not count or row[start : start + count] != [kind] * count:
            return None
        blocks += [block._replace(image=image) for block in item]
        start += count
        image += 1
    return layout_of(tuple(blocks)) if blocks else None


def repeat_block(config: Any, ids: torch.Tensor, candidates: Iterable[Block]) -> Iterable[Item]:
    """Return the images of a batch if all are alike: endless copies of one block.

    It is the first candidate whose length divides that of each run of placeholders.

    Args:
        config: of the base model.
        ids: (B, L) int64 on the host.
        candidates: what an image may be.
    Returns: () if no candidate fits.
    """
    is_image = torch.isin(ids, torch.tensor(_read_ids(config, IMAGE_IDS))).int()
    edges = torch.nn.functional.pad(is_image, (1, 1)).diff()  # 1 where a run starts, -1 behind it
    runs = (edges == -1).nonzero()[:, 1] - (edges == 1).nonzero()[:, 1]
    for block in candidates:
        if not bool((runs % block.length).any()):
            return repeat((block,))
    return ()


def make_video(count: int, block: Block, after: int = 0) -> Item:
    """Return a video of equal frames.

    Args:
        count: how many frames there are.
        block: one frame.
        after: how many tokens stand behind the last frame.
    """
    blocks = [block._replace(frame=frame) for frame in range(count)]
    if blocks:
        blocks[-1] = blocks[-1]._replace(after=block.after + after)
    return tuple(blocks)


def keep_side(side: int) -> int:
    """Return `side`, for models with one visual token for each patch."""
    return side


def repeat_grid(
    config: Any,
    ids: torch.Tensor,
    arguments: Mapping[str, Any],
    merged: Callable[[int], int] = keep_side,
    *,
    before: Sequence[int] = (0,),
    pixels: str = "pixel_values",
) -> Iterable[Item]:
    """Return the images of a batch if all are alike: endless copies of one grid.

    Args:
        config: of the base model.
        ids: (B, L) int64 on the host.
        arguments: of the base model by name, its images among them.
        merged: takes the number of patches on a side of the image and returns that of visual
            tokens.
        before: how many tokens may stand in front of each grid, the likeliest number first.
        pixels: name of the argument that holds the images.
    Returns: () if no grid fits.
    """
    patches = count_patches(config, arguments.get(pixels))
    if patches is None:
        grids = _guess_grids(config, arguments, merged)
    else:
        grids = [(merged(patches[0]), merged(patches[1]))]
    return repeat_block(config, ids, [Block(*grid, before=n) for grid in grids for n in before])


def count_patches(config: Any, pixels: object) -> Grid | None:
    """Return how many rows and columns of patches images have.

    Args:
        config: of the base model.
        pixels: (..., H, W) with four dimensions or more, or anything else.
    Returns: None if `pixels` is anything else, or smaller than a patch.
    """
    patch = _read_pair(getattr(config.vision_config, "patch_size", None))
    if not isinstance(pixels, torch.Tensor) or patch is None or pixels.ndim < 4:
        return None
    height, width = pixels.shape[-2:]
    if height < patch[0] or width < patch[1]:
        return None
    return height // patch[0], width // patch[1]


def read_config_patches(config: Any) -> Grid | None:
    """Return how many rows and columns of patches an image has by the vision config.

    Returns: None if the config names no sizes.
    """
    patch = _read_pair(getattr(config.vision_config, "patch_size", None))
    side = _read_pair(getattr(config.vision_config, "image_size", None))
    if patch is None or side is None:
        return None
    return side[0] // patch[0], side[1] // patch[1]


def _guess_grids(
    config: Any, arguments: Mapping[str, Any], merged: Callable[[int], int]
) -> list[Grid]:
    """Return the square grids that an image may have if its pixels are not among the arguments.

    Their numbers of tokens are those of encoded features among the arguments, or else that of the
    vision config, and that which the config says for the processor.
    """
    encoded = (arguments.get("mm_encoder_outputs") or {}).get("image")
    images = getattr(encoded, "pooler_output", None)  # (I, V, D), or I tensors (V, D)
    counts = set() if images is None else {len(image) for image in images}
    patches = read_config_patches(config)
    if not counts and patches is not None:
        counts = {merged(patches[0]) * merged(patches[1])}
    # The encoder may be used at another size than its config names. Configs of models with images
    # of many sizes say 1 here, which tells nothing.
    counts.add(getattr(config, "image_seq_length", None) or 1)
    return [(isqrt(n), isqrt(n)) for n in sorted(counts) if n > 1 and isqrt(n) ** 2 == n]


def _read_pair(value: Any) -> Grid | None:
    """Return height and width in a config field, which holds two numbers or one for both."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return int(value[0]), int(value[1])
    return None
