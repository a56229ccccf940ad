"""Mini-Gemini's two image encoders, and how the features of both become one.

Private details of transformers touched here: `embeddings`, `encoder.stages` and `layernorm` of
`ConvNextModel`, and `hidden_states` of CLIP's output.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModel

from sparsight.errors import TESTED_WITH, InputError, UnsupportedError
from sparsight.models.mini_gemini.config import MiniGeminiConfig


class HighResTower(nn.Module):
    """ConvNeXt whose stages are brought to the size of the first one and stacked.

    Source: Li et al., Mini-Gemini, arXiv 2403.18814, section 3.1.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        model: Any = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
        if not hasattr(model, "embeddings") or not hasattr(
            getattr(model, "encoder", None), "stages"
        ):
            raise UnsupportedError(
                f"{type(model).__name__} has no embeddings and encoder.stages; {TESTED_WITH}."
            )
        model.layernorm = nn.Identity()  # stands behind the pooled features, which nobody reads
        self.convnext = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return features (I, sum of widths, S / 4, S / 4) of pictures (I, 3, S, S)."""
        hidden = self.convnext.embeddings(pixels)
        maps: list[torch.Tensor] = []
        for stage in self.convnext.encoder.stages:
            hidden = stage(hidden)
            maps.append(hidden)
        size = maps[0].shape[-2:]
        return torch.cat([maps[0], *(resize(features, size) for features in maps[1:])], dim=1)


def resize(features: torch.Tensor, size: Any) -> torch.Tensor:
    """Return features (I, C, h, w) at another size, bilinear, computed in float32 or better."""
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    resized = functional.interpolate(wide, size=size, mode="bilinear", align_corners=False)
    return resized.to(features.dtype)


def _project(given: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(given), nn.Linear(given, width))


class PatchMining(nn.Module):
    """Each patch of a tile asks the high-resolution features of its own place.

    Source: Li et al., Mini-Gemini, arXiv 2403.18814, section 3.2 and equation 1.
    Differs: tiles are mined one after the other, as the features of all of them at once need
        gigabytes; the result is the same.
    """

    def __init__(self, width: int, high_width: int) -> None:
        super().__init__()
        self.query = _project(width, width)
        self.key = _project(high_width, width)
        self.value = _project(high_width, width)

    def forward(self, low: torch.Tensor, tiles: list[torch.Tensor]) -> torch.Tensor:
        """Return features (I, T P, C) of all tiles.

        Args:
            low: (I, T, P, C) of the first encoder.
            tiles: T times (I, C_high, H, H), features of the second one.
        """
        return torch.cat([self.mine(low[:, t], high) for t, high in enumerate(tiles)], dim=1)

    def mine(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """Return features (I, P, C) of a tile: its own, and what they find.

        Args:
            low: (I, P, C), in raster order.
            high: (I, C_high, H, H).
        """
        images, channels, height, _ = high.shape
        side = round(low.shape[1] ** 0.5)
        cell = height // side
        places = high.view(images, channels, side, cell, side, cell).permute(0, 2, 4, 3, 5, 1)
        places = places.reshape(images, side**2, cell**2, channels)
        key = self.key(places)
        query = self.query(low)[:, :, None]
        logits = query @ (key / key.shape[-1] ** 0.5).transpose(-1, -2)
        weights = torch.nan_to_num(logits).softmax(dim=-1)  # (I, P, 1, cell^2); fp16 may overflow
        found: torch.Tensor = (weights @ self.value(places))[:, :, 0]
        return low + found


class MinedTower(nn.Module):
    """Both encoders and the mining: pictures to the features that the projector is given."""

    def __init__(self, config: MiniGeminiConfig) -> None:
        super().__init__()
        config.check_sizes()
        vision: Any = config.vision_config
        high: Any = config.high_res_config
        self.clip: Any = AutoModel.from_config(vision)  # type: ignore[no-untyped-call]
        self.high_res = HighResTower(high)
        self.mining = PatchMining(vision.hidden_size, sum(high.hidden_sizes))
        self.grid, self.whole = config.image_grid, config.image_global
        self.layer, self.side = config.vision_feature_layer, config.high_res_size

    @property
    def config(self) -> Any:
        """The config of the first encoder."""
        return self.clip.config

    def forward(self, pixel_values: torch.Tensor, high_res_pixel_values: torch.Tensor) -> Any:
        """Return CLIP's output with the features (I, V, C) as its `last_hidden_state`.

        Args:
            pixel_values: (I, T, 3, s, s) with the overview last, or (I, 3, s, s) of one tile.
            high_res_pixel_values: (I, 3, S, S).
        """
        dtype = next(self.mining.parameters()).dtype
        pixels = self._order_tiles(pixel_values, high_res_pixel_values).to(dtype)
        output = self.clip(pixels.flatten(0, 1), output_hidden_states=True)
        low = output.hidden_states[self.layer][:, 1:]  # without the class token
        low = low.view(*pixels.shape[:2], *low.shape[1:])  # (I, T, P, C)
        high = self.high_res(high_res_pixel_values.to(dtype))
        output.last_hidden_state = self.mining(low, self._cut(high))
        return output

    def _order_tiles(self, pixels: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """Return tiles (I, T, 3, s, s) in the order of their visual tokens: the overview first.

        Raises: InputError: the tensors do not fit each other or the config.
        """
        tiles = pixels[:, None] if pixels.ndim == 4 else pixels
        wanted = (len(high), self.grid**2 + self.whole, 3)
        if (
            tiles.ndim != 5
            or tiles.shape[:3] != wanted
            or high.shape[1:] != (3, self.side, self.side)
        ):
            raise InputError(
                f"pixel_values {tuple(pixels.shape)} and high_res_pixel_values "
                f"{tuple(high.shape)} do not fit: give (I, {wanted[1]}, 3, s, s) and "
                f"(I, 3, {self.side}, {self.side}), as the model's processor makes them."
            )
        return tiles.roll(1, dims=1) if self.whole else tiles

    def _cut(self, high: torch.Tensor) -> list[torch.Tensor]:
        """Return the high-resolution features of each tile in the order of visual tokens."""
        size = high.shape[-1] // self.grid
        overview = [resize(high, (size, size))] if self.whole else []
        tiles: list[torch.Tensor] = []
        for row in torch.split(high, size, dim=2):
            tiles += torch.split(row, size, dim=3)
        return [*overview, *tiles]
