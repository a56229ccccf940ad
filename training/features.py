"""What the encoder's frozen layers say of each picture, computed once and kept in a float16 memory map.

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
from torch import nn

PATCH = 14  # px
WIDTH = 384
FROZEN = 6  # of the encoder's twelve layers; the others up to the penultimate are trained
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


class Eye(nn.Module):
    """What is trained to see: the encoder's layers behind the frozen ones, up to the penultimate, and the projector.

    Args:
        model: the embedded model; its modules are shared, not copied.
        sample: (b, 1 + grid^2, 384) states that set the scale of the projector's input.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: Any, sample: torch.Tensor) -> None:
        super().__init__()
        self.layers = model.model.vision_tower.encoder.layer[FROZEN:-1].requires_grad_(True)
        self.projector = model.model.multi_modal_projector.requires_grad_(True)
        with torch.no_grad():
            features = self.features(sample).flatten(0, 1)
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("std", features.std(0))

    def features(self, states: torch.Tensor) -> torch.Tensor:
        """Returns the features of the patches, (b, grid^2, 384), from the states behind the frozen layers."""
        for layer in self.layers:
            states = layer(states)
        return states[:, 1:]

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Returns the visual tokens, (b, grid^2, D) float32."""
        with torch.autocast("cpu", torch.bfloat16):
            features = self.features(states)
        tokens: torch.Tensor = self.projector((features.float() - self.mean) / self.std)
        return tokens


def encode(model: Any, processor: Any, pictures: Pictures, folder: Path) -> np.ndarray:
    """Returns the states behind the frozen layers, (pictures, 1 + grid^2, 384) float16, CLS first.

    They are computed in bfloat16 (mean deviation about 1 % of the mean magnitude). A finished file
    is reused; an unfinished one never gets that name.
    """
    path = folder / f"{pictures.name}_{pictures.count}_{FROZEN}.f16"
    shape = (pictures.count, 1 + pictures.grid**2, WIDTH)
    if path.is_file():
        return np.memmap(path, np.float16, "r", shape=shape)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    store = np.memmap(partial, np.float16, "w+", shape=shape)
    size = {
        "size": {"shortest_edge": pictures.size},
        "crop_size": {"height": pictures.size, "width": pictures.size},
    }
    tower = model.model.vision_tower
    for start in track(range(0, pictures.count, _BATCH), f"encode {pictures.name}"):
        numbers = range(start, min(start + _BATCH, pictures.count))
        batch = [pictures.make(number) for number in numbers]
        pixels = processor.image_processor(batch, return_tensors="pt", **size)["pixel_values"]
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            states = tower.embeddings(pixels)
            for layer in tower.encoder.layer[:FROZEN]:
                states = layer(states)
        store[start : start + len(batch)] = states.float().numpy()
    store.flush()
    partial.rename(path)
    return np.memmap(path, np.float16, "r", shape=shape)


def look(eye: Eye, states: np.ndarray, path: Path) -> np.ndarray:
    """Returns the visual tokens of stored states, (pictures, grid^2, D) float16, computed once and kept in a file."""
    width = eye.projector.linear_2.out_features
    shape = (states.shape[0], states.shape[1] - 1, width)
    if path.is_file():
        return np.memmap(path, np.float16, "r", shape=shape)
    partial = path.with_suffix(".partial")
    store = np.memmap(partial, np.float16, "w+", shape=shape)
    with torch.inference_mode():
        for start in track(range(0, len(states), _BATCH), f"look {path.stem}"):
            batch = torch.from_numpy(states[start : start + _BATCH].astype(np.float32))
            store[start : start + len(batch)] = eye(batch).numpy()
    store.flush()
    partial.rename(path)
    return np.memmap(path, np.float16, "r", shape=shape)
