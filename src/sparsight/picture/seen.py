"""What an image processor shows of an image: found by showing it one whose colours say where they come from.

Any cropping, padding, stretching and tiling is found in this way, without knowing the processor's
settings. Private details of transformers touched here: `image_processor`, `image_token`,
`boi_token`, `image_mean`, `image_std`, `do_normalize` and `image_grid_pinpoints` of processors, and
that `pixel_values` of (..., 3, H, W) are images.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

Box = tuple[
    float, float, float, float
]  # left, top, right and bottom as shares of an image; may reach outside of it
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
MARKED = 0.9  # blue of every pixel that comes from the image; padding is darker
EDGE = 0.02  # share at the ends of a gradient that filters bend
FEWEST = 5  # px of a gradient whose slope can be read
SNAP = 0.012  # a gradient of 256 steps is read to about this


def seen_boxes(processor: Any, size: tuple[int, int]) -> list[Box]:
    """Return the part of an image that each of its tiles shows, in the order of the tiles.

    Processors that lay out patches themselves (Qwen-VL) and those whose tiles make up one grid of
    the whole image (LLaVA-NeXT) show the whole image.

    Args:
        processor: of the model; None says nothing, so that the whole image counts as seen.
        size: width and height of the image in px.
    """
    looks = getattr(processor, "image_processor", None)
    if looks is None or hasattr(looks, "image_grid_pinpoints"):
        return [WHOLE]
    pixels = _processed(processor, looks, _gradients(*size))
    if pixels.ndim < 4 or pixels.shape[-3] != 3:
        return [WHOLE]
    return [_box(tile, size) for tile in _colours(pixels.reshape(-1, *pixels.shape[-3:]), looks)]


def _gradients(width: int, height: int) -> Image.Image:
    """Return an image whose red says the column, whose green says the row, and whose blue says that it is the image."""
    colours = np.full((height, width, 3), 255, dtype=np.uint8)
    colours[..., 0] = ((np.arange(width) + 0.5) / width * 255).round()
    colours[..., 1] = ((np.arange(height) + 0.5) / height * 255).round()[:, None]
    return Image.fromarray(colours)


def _processed(processor: Any, looks: Any, image: Image.Image) -> NDArray[np.float64]:
    token = getattr(processor, "boi_token", None) or getattr(processor, "image_token", None)
    try:  # some processors have settings of their own for their image processor
        given = processor(images=[image], text=[token], return_tensors="pt")
    except (
        TypeError,
        ValueError,
    ):  # or want another prompt; a wrong count of tiles is noticed later
        given = looks(images=[image], return_tensors="pt")
    pixels: NDArray[np.float64] = torch.as_tensor(given["pixel_values"]).double().numpy()
    return pixels


def _colours(tiles: NDArray[np.float64], looks: Any) -> NDArray[np.float64]:
    """Undo the normalisation: (n, 3, H, W) in 0..1."""
    if not getattr(looks, "do_normalize", True):
        return tiles.clip(0, 1)
    mean, std = (
        np.array(getattr(looks, name), dtype=np.float64) for name in ("image_mean", "image_std")
    )
    return (tiles * std.reshape(-1, 1, 1) + mean.reshape(-1, 1, 1)).clip(0, 1)


def _box(tile: NDArray[np.float64], size: tuple[int, int]) -> Box:
    content = tile[2] > MARKED
    left, right = _ends(tile[0], content, size[0])
    top, bottom = _ends(tile[1].T, content.T, size[1])
    return left, top, right, bottom


def _ends(
    values: NDArray[np.float64], content: NDArray[np.bool_], size: int
) -> tuple[float, float]:
    """Read from a gradient where columns lie: the share at the left of the first, and at the right of the last one.

    A gradient of `size` px is flat before the middle of its first and behind that of its last px.
    An image of very few px has no slope that could be read; it is taken as whole, with the padding
    around it.
    """
    filled = content.any(axis=0)
    weights = np.maximum(content.sum(axis=0), 1)
    means = (values * content).sum(axis=0) / weights
    if size < FEWEST and filled.any():
        places = np.flatnonzero(filled)
        first, end = int(places[0]), int(places[-1]) + 1
        return 0.0 - first / (end - first), 1 + (values.shape[1] - end) / (end - first)
    used = np.flatnonzero(filled & (means > EDGE) & (means < 1 - EDGE))
    if len(used) < 2:
        return 0.0, 1.0
    slope, start = np.polyfit(used + 0.5, means[used], 1)
    return _snapped(start), _snapped(start + slope * values.shape[1])


def _snapped(share: float) -> float:
    return float(round(share)) if abs(share - round(share)) < SNAP else float(share)
