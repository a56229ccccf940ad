"""Which part of an image an image processor shows to the model.

The processor is given an image whose colours say where each pixel comes from. This shows any
cropping, padding, stretching and tiling, whatever the processor's settings are.

Private details of transformers touched here: `image_processor`, `image_token`, `boi_token`,
`image_mean`, `image_std`, `do_normalize` and `image_grid_pinpoints` of processors, and that
`pixel_values`, or `pixel_values_images` of Video-LLaVA, of (..., 3, H, W) are images.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

# left, top, right and bottom, in shares of an image; a box may reach outside of the image
Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
PIXELS = ("pixel_values", "pixel_values_images")
MARKED = 0.9  # blue of every pixel that comes from the image; padding is darker
EDGE = 0.02  # share at the ends of a gradient that filters bend
FEWEST = 5  # px of a gradient whose slope can be read
SNAP = 0.012  # how exactly a gradient of 256 steps can be read, about


def find_seen_boxes(processor: Any, size: tuple[int, int]) -> list[Box]:
    """Return the part of an image that each of its tiles shows, in the order of the tiles.

    Processors that lay out patches themselves (Qwen-VL), and those whose tiles make up one grid of
    the whole image (LLaVA-NeXT), show the whole image.

    Args:
        processor: of the model; None for the whole image.
        size: width and height of the image, px.
    """
    image_processor = getattr(processor, "image_processor", None)
    if image_processor is None or hasattr(image_processor, "image_grid_pinpoints"):
        return [WHOLE]
    pixels = _process(processor, image_processor, _draw_gradients(*size))
    if pixels is None or pixels.ndim < 4 or pixels.shape[-3] != 3:
        return [WHOLE]
    tiles = _denormalise(pixels.reshape(-1, *pixels.shape[-3:]), image_processor)
    order = getattr(image_processor, "token_order", None)  # of Mini-Gemini: the last tile first
    tiles = tiles if order is None else tiles[order]
    return [_find_box(tile, size) for tile in tiles]


def _draw_gradients(width: int, height: int) -> Image.Image:
    """Return an image whose red is the column and green the row of each pixel, and blue is full."""
    colours = np.full((height, width, 3), 255, dtype=np.uint8)
    colours[..., 0] = ((np.arange(width) + 0.5) / width * 255).round()
    colours[..., 1] = ((np.arange(height) + 0.5) / height * 255).round()[:, None]
    return Image.fromarray(colours)


def _process(
    processor: Any, image_processor: Any, image: Image.Image
) -> NDArray[np.float64] | None:
    """Return what a processor makes of an image; None where its pixels have another name."""
    token = getattr(processor, "boi_token", None) or getattr(processor, "image_token", None)
    # The processor is asked first, as some pass settings of their own to their image processor.
    # Others want another prompt. Should the tiles then differ, their count is checked later.
    try:
        outputs = processor(images=[image], text=[token], return_tensors="pt")
    except (TypeError, ValueError):
        outputs = image_processor(images=[image], return_tensors="pt")
    for name in PIXELS:
        if name in outputs:
            pixels: NDArray[np.float64] = torch.as_tensor(outputs[name]).double().numpy()
            return pixels
    return None


def _denormalise(tiles: NDArray[np.float64], image_processor: Any) -> NDArray[np.float64]:
    """Return tiles, (n, 3, H, W), as colours in 0..1."""
    if not getattr(image_processor, "do_normalize", True):
        return tiles.clip(0, 1)
    mean = np.array(image_processor.image_mean, dtype=np.float64).reshape(-1, 1, 1)
    std = np.array(image_processor.image_std, dtype=np.float64).reshape(-1, 1, 1)
    return (tiles * std + mean).clip(0, 1)


def _find_box(tile: NDArray[np.float64], size: tuple[int, int]) -> Box:
    """Return the part of an image that a tile, (3, H, W), shows."""
    content = tile[2] > MARKED  # (H, W)
    left, right = _find_ends(tile[0], content, size[0])
    top, bottom = _find_ends(tile[1].T, content.T, size[1])
    return left, top, right, bottom


def _find_ends(
    values: NDArray[np.float64], content: NDArray[np.bool_], size: int
) -> tuple[float, float]:
    """Return which shares of an image's width lie at the left and right end of a tile.

    An image of very few px has no slope that could be read. It counts as seen whole, with the
    padding around it.

    Args:
        values: (H, W) of the tile: the gradient, 0 at the image's left and 1 at its right.
        content: (H, W) of the tile: whether a pixel comes from the image.
        size: width of the image, px. The gradient is flat before the middle of the image's first
            px and behind the middle of its last.
    """
    filled = content.any(axis=0)  # (W,)
    weights = np.maximum(content.sum(axis=0), 1)
    means = (values * content).sum(axis=0) / weights  # (W,)
    if size < FEWEST and filled.any():
        columns = np.flatnonzero(filled)
        first = int(columns[0])
        end = int(columns[-1]) + 1
        return 0.0 - first / (end - first), 1 + (values.shape[1] - end) / (end - first)
    used = np.flatnonzero(filled & (means > EDGE) & (means < 1 - EDGE))
    if len(used) < 2:
        return 0.0, 1.0
    slope, start = np.polyfit(used + 0.5, means[used], 1)
    return _snap(start), _snap(start + slope * values.shape[1])


def _snap(share: float) -> float:
    """Return a share, rounded to 0 or 1 if it is as near as can be read."""
    return float(round(share)) if abs(share - round(share)) < SNAP else float(share)
