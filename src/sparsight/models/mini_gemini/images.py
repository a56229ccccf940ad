"""What Mini-Gemini's two encoders are given of a picture.

Private details of transformers touched here: `BaseImageProcessor` keeps its settings as attributes,
writes them by `to_dict`, and calls `preprocess`; `BatchFeature`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from sparsight.errors import InputError
from sparsight.images import MOST_PIXELS
from sparsight.pixels import to_rgb

# of CLIP, and of the ConvNeXt that was trained beside it
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def prepare(
    image: Any, side: int, high_side: int, grid: int = 1, whole: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the first and the second encoder are given of one picture.

    The picture is padded to a square and resized once. The first encoder's tiles are shrunk from
    what the second one is given.

    Source: authors' code dvlab-research/MGM, 769820c.

    Args:
        image: Pillow image or array, as `sparsight.pixels.to_rgb` takes it.
        side: of a tile, px.
        high_side: of the high-resolution picture, px.
        grid: tiles on a side.
        whole: whether an overview stands behind the tiles.

    Returns:
        (T, 3, side, side) float32, or (3, side, side) where there is one tile; and
        (3, high_side, high_side) float32.

    Raises:
        InputError: the image cannot be read, or its square would be too large.
    """
    rgb = to_rgb(image)
    edge = max(rgb.size)
    if edge**2 > MOST_PIXELS:
        raise InputError(
            f"the image of {rgb.width} x {rgb.height} px makes a square of {edge**2} px; "
            f"{MOST_PIXELS} are allowed: scale it down, or cut it."
        )
    colour = tuple(int(mean * 255) for mean in MEAN)
    square = Image.new("RGB", (edge, edge), colour)
    square.paste(rgb, ((edge - rgb.width) // 2, (edge - rgb.height) // 2))
    resized = square.resize((high_side, high_side), Image.Resampling.BICUBIC)
    pixels: Any = np.asarray(resized, dtype=np.float32) / np.float32(255)
    pixels = (pixels - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
    high = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    low = _shrink(high, side * grid)
    if grid == 1 and not whole:
        return low, high
    tiles = low.view(3, grid, side, grid, side).permute(1, 3, 0, 2, 4).reshape(-1, 3, side, side)
    if whole:
        tiles = torch.cat([tiles, _shrink(low, side)[None]])
    return tiles, high


def _shrink(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """Return pixels (3, H, W) as (3, side, side), bilinear, without smoothing before."""
    return functional.interpolate(
        pixels[None], size=(side, side), mode="bilinear", align_corners=False
    )[0]


class MiniGeminiImageProcessor(BaseImageProcessor):
    """Makes `pixel_values` and `high_res_pixel_values` of pictures.

    Args:
        side: of a tile, px.
        high_res_size: side of the high-resolution picture, px.
        image_grid: tiles on a side.
        image_global: whether an overview stands behind the tiles.
        others: what transformers writes beside them.
    """

    model_input_names = ["pixel_values", "high_res_pixel_values"]  # noqa: RUF012 - as transformers

    def __init__(
        self,
        side: int = 336,
        high_res_size: int = 768,
        image_grid: int = 1,
        image_global: bool = False,
        **others: Any,
    ) -> None:
        # they are facts of the model and no settings
        kept = {
            name: value for name, value in others.items() if name not in ("image_mean", "image_std")
        }
        super().__init__(**kept)
        self.side, self.high_res_size = side, high_res_size
        self.image_grid, self.image_global = image_grid, image_global
        self.image_mean, self.image_std = list(MEAN), list(STD)

    @property
    def token_order(self) -> list[int]:
        """Which tile the visual tokens of each part of a picture show: the overview comes first."""
        tiles = list(range(self.image_grid**2))
        return [len(tiles), *tiles] if self.image_global else tiles

    def preprocess(self, images: Any, return_tensors: Any = None, **kwargs: Any) -> BatchFeature:
        """Return both inputs of a list of pictures.

        Args:
            images: one, a list, or a list for each prompt.
            return_tensors: "pt" or None, which gives tensors too.
            kwargs: none is taken.

        Raises:
            InputError: there is no picture, or one cannot be read; or another option is given.
        """
        refuse_options(kwargs)
        if return_tensors not in (None, "pt"):
            raise InputError(f"return_tensors={return_tensors!r} is not known here; give 'pt'.")
        pictures = list_pictures(images)
        if not pictures:
            raise InputError("there is no picture; give one or more.")
        made = [
            prepare(image, self.side, self.high_res_size, self.image_grid, self.image_global)
            for image in pictures
        ]
        low, high = (torch.stack(parts) for parts in zip(*made, strict=True))
        return BatchFeature({"pixel_values": low, "high_res_pixel_values": high})


def list_pictures(images: Any) -> list[Any]:
    """Return pictures that are given as one, as a list, or as a list for each prompt."""
    if images is None:
        return []
    if not isinstance(images, Sequence) or isinstance(images, str):
        return [images]
    pictures: list[Any] = []
    for image in images:
        pictures += list_pictures(image)
    return pictures


def refuse_options(options: dict[str, Any]) -> None:
    """Check that no option is given that would be ignored.

    Raises: InputError: one is set.
    """
    given = sorted(name for name, value in options.items() if value not in (None, False, {}))
    if given:
        raise InputError(
            f"{', '.join(given)}: Mini-Gemini's processor knows no such option; leave it out. The "
            "sizes of its pictures are fixed by the model."
        )
