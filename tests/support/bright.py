"""Images with one bright place, and which visual token of a model notices it."""

import copy

import numpy as np
import torch
from PIL import Image

from sparsight.families import family_of
from tests.support import tiny

MIXERS = (
    "out_proj.weight",
    "o_proj.weight",
    "attn.proj.weight",
    "attention.projection_layer.weight",
)
MIXERS += ("self_attn.projection_layer.weight",)
ENCODERS = ("pixel_values", "pixel_values_images", "pixel_values_videos")


@torch.no_grad()
def deaf(model):
    """Return a copy without attention in its image encoder: each patch knows of itself alone."""
    model = copy.deepcopy(model)
    for name, weight in model.named_parameters():
        if "language_model" not in name and "text_model" not in name and name.endswith(MIXERS):
            weight.zero_()
    return model


@torch.no_grad()
def encode(model, given):
    """Visual tokens of all images or videos given, (V, D)."""
    given = {
        key: value.to(model.dtype) if value.is_floating_point() else value
        for key, value in given.items()
    }
    pixels = next(name for name in ENCODERS if name in given)
    kind = (
        model.model.get_video_features
        if pixels.endswith("videos")
        else model.model.get_image_features
    )
    features = kind(given.pop(pixels), **given, return_dict=True).pooler_output
    parts = [features] if isinstance(features, torch.Tensor) else features
    found = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
    if (
        tiny.OLD
        and pixels.endswith("videos")
        and hasattr(model.model, "image_newline")
        and _pools_videos(model)
    ):
        found = torch.cat([found, model.model.image_newline[None]])  # it used to be added later
    return found


def _pools_videos(model):
    return "Onevision" in type(model).__name__


def layout_of(model, given, count, *, video=False):
    """The layout that the family reads for a prompt of `count` placeholders."""
    config = model.model.config
    token = (
        config.video_token_id
        if video and "Glm4v" not in type(model).__name__
        else config.image_token_id
    )
    (layout,) = family_of(model).layouts(config, torch.full((1, count), token), given)
    return layout


def noticing(model, dark, bright):
    """How much each visual token changes, (V,)."""
    before, after = encode(model, dark), encode(model, bright)
    return (after - before).norm(dim=-1) / before.norm(dim=-1)


def painted(size, spot):
    """Return a noisy grey photograph with a bright spot, placed in shares of width and height."""
    width, height = size
    noise = np.random.default_rng(0).integers(80, 120, (height, width, 3)).astype(np.uint8)
    if spot is not None:
        left, top, right, bottom = spot
        noise[
            round(top * height) : round(bottom * height), round(left * width) : round(right * width)
        ] = 255
    return Image.fromarray(noise)


def cell_of(size, row, column):
    """The place of a cell of a grid, as shares of width and height: left, top, right, bottom."""
    rows, columns = size
    return column / columns, row / rows, (column + 1) / columns, (row + 1) / rows


def targets(size):
    """Cells of a grid that tell rows from columns, and both from their reverse."""
    rows, columns = size
    return sorted(
        {(0, columns - 1), (rows - 1, 0), (rows // 2, columns // 3), (rows // 3, columns - 1)}
    )
