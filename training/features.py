"""Frozen encoder features, computed once and kept in a float16 memory map.

Knows the vision tower; knows nothing about questions or training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from easy_vqa import EasyVQA
from rich.progress import track

GRID = 24  # 336 px / 14 px
WIDTH = 384
_BATCH = 16


def encode(model: Any, processor: Any, data: EasyVQA, images: list[int], path: Path) -> np.ndarray:
    """Returns the features that the projector would see, (images, 576, 384) float16.

    They come from the penultimate layer without CLS, computed in bfloat16 (mean deviation about 1 % of the mean
    magnitude). A finished file at `path` is reused; an unfinished one never gets that name.
    """
    shape = (len(images), GRID * GRID, WIDTH)
    if path.is_file():
        return np.memmap(path, np.float16, "r", shape=shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    store = np.memmap(partial, np.float16, "w+", shape=shape)
    for start in track(range(0, len(images), _BATCH), "encode images"):
        batch = [data.image(number) for number in images[start : start + _BATCH]]
        pixels = processor.image_processor(batch, return_tensors="pt")["pixel_values"]
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        store[start : start + _BATCH] = states[-2][:, 1:].float().numpy()  # (b, 576, 384)
    store.flush()
    partial.rename(path)
    return np.memmap(path, np.float16, "r", shape=shape)


def statistics(store: np.ndarray, images: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns mean and standard deviation of each channel, both (384,), from the first images."""
    sample = torch.from_numpy(np.asarray(store[:images], dtype=np.float32)).flatten(0, 1)
    return sample.mean(0), sample.std(0)


def pooled(features: torch.Tensor, window: int) -> torch.Tensor:
    """Averages windows of the 24x24 grid: (b, 576, 384) to (b, 576 / window^2, 384)."""
    if window == 1:
        return features
    b, _, width = features.shape
    side = GRID // window
    return features.view(b, side, window, side, window, width).mean((2, 4)).view(b, side * side, width)


def grid_positions(window: int) -> torch.Tensor:
    """Returns the raster position of each window's first patch, so that distances stay those of inference."""
    line = torch.arange(0, GRID, window)
    return (line[:, None] * GRID + line[None, :]).flatten()
