"""Frozen encoder features, computed once and kept in a float16 memory map.

Knows the vision tower; knows nothing about questions or training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track

PATCH = 14  # px
WIDTH = 384
_BATCH = 16


@dataclass(frozen=True)
class Pictures:
    """Numbered pictures of one size, made when they are needed.

    Args:
        name: names the file of their features.
        count: how many there are.
        size: px of both sides.
        make: draws the picture of a number.
    """

    name: str
    count: int
    size: int
    make: Callable[[int], Image.Image]

    @property
    def grid(self) -> int:
        """Patches on each side."""
        return self.size // PATCH


def encode(model: Any, processor: Any, pictures: Pictures, folder: Path) -> np.ndarray:
    """Returns the features that the projector would see, (pictures, grid^2, 384) float16.

    They come from the penultimate layer without CLS, computed in bfloat16 (mean deviation about 1 % of the mean
    magnitude). A finished file is reused; an unfinished one never gets that name.
    """
    path = folder / f"{pictures.name}_{pictures.count}.f16"
    shape = (pictures.count, pictures.grid**2, WIDTH)
    if path.is_file():
        return np.memmap(path, np.float16, "r", shape=shape)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    store = np.memmap(partial, np.float16, "w+", shape=shape)
    size = {"size": {"shortest_edge": pictures.size}, "crop_size": {"height": pictures.size, "width": pictures.size}}
    for start in track(range(0, pictures.count, _BATCH), f"encode {pictures.name}"):
        numbers = range(start, min(start + _BATCH, pictures.count))
        batch = [pictures.make(number) for number in numbers]
        pixels = processor.image_processor(batch, return_tensors="pt", **size)["pixel_values"]
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        store[start : start + len(batch)] = states[-2][:, 1:].float().numpy()  # (b, grid^2, 384)
    store.flush()
    partial.rename(path)
    return np.memmap(path, np.float16, "r", shape=shape)


def statistics(store: np.ndarray, images: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns mean and standard deviation of each channel, both (384,), from the first images."""
    sample = torch.from_numpy(np.asarray(store[:images], dtype=np.float32)).flatten(0, 1)
    return sample.mean(0), sample.std(0)


def pooled(features: torch.Tensor, window: int) -> torch.Tensor:
    """Averages windows of the square grid: (b, g^2, 384) to (b, (g / window)^2, 384)."""
    if window == 1:
        return features
    b, tokens, width = features.shape
    side = round(tokens**0.5) // window
    return features.view(b, side, window, side, window, width).mean((2, 4)).view(b, side * side, width)


def grid_positions(grid: int, window: int) -> torch.Tensor:
    """Returns the raster position of each window's first patch, so that distances stay those of inference."""
    line = torch.arange(0, grid, window)
    return (line[:, None] * grid + line[None, :]).flatten()
