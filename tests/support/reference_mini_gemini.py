"""Mini-Gemini's image side once more, slowly and in float64, from the authors' keys alone."""

import math

import torch
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel

HIGH = "model.vision_tower_aux."
CLIP = "model.vision_tower.vision_tower.vision_model."


def norm(x, weights, key, eps):
    """A layer norm over the last dimension, by its definition."""
    mean = x.mean(-1, keepdim=True)
    spread = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (spread + eps).sqrt() * weights[key + ".weight"] + weights[key + ".bias"]


def norm_map(x, weights, key):
    """The same over the channels of maps (I, C, H, W)."""
    return norm(x.permute(0, 2, 3, 1), weights, key, 1e-6).permute(0, 3, 1, 2)


def linear(x, weights, key):
    return x @ weights[key + ".weight"].T + weights[key + ".bias"]


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def convolve(x, weights, key, **settings):
    return functional.conv2d(x, weights[key + ".weight"], weights[key + ".bias"], **settings)


def shrink(x, size):
    return functional.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)


def see_high(pixels, weights):
    """Features of pictures (I, 3, S, S), (I, C, S / 4, S / 4)."""
    x = norm_map(convolve(pixels, weights, HIGH + "vision_stem.0", stride=4), weights,
                 HIGH + "vision_stem.1")  # fmt: skip
    maps = []
    for stage in range(4):
        start = f"{HIGH}vision_stages.{stage}."
        if stage:
            x = norm_map(x, weights, start + "downsample.0")
            x = convolve(x, weights, start + "downsample.1", stride=2)
        block = 0
        while f"{start}blocks.{block}.gamma" in weights:
            own = f"{start}blocks.{block}."
            y = convolve(x, weights, own + "conv_dw", padding=3, groups=x.shape[1])
            y = norm(y.permute(0, 2, 3, 1), weights, own + "norm", 1e-6)
            y = linear(gelu(linear(y, weights, own + "mlp.fc1")), weights, own + "mlp.fc2")
            x = x + (weights[own + "gamma"] * y).permute(0, 3, 1, 2)
            block += 1
        maps.append(x)
    return torch.cat([shrink(each, maps[0].shape[-1]) for each in maps], dim=1)


def see_low(tiles, weights, sizes):
    """CLIP's patches of tiles (n, 3, s, s) behind the last block but one, (n, P, C)."""
    model = CLIPVisionModel(CLIPVisionConfig(**sizes)).double().eval()
    own = {key.removeprefix(CLIP): value for key, value in weights.items() if key.startswith(CLIP)}
    found = model.load_state_dict(own, strict=False)
    assert not found.missing_keys
    return model(tiles, output_hidden_states=True).hidden_states[-2][:, 1:]


def ask(x, weights, name):
    """One of the three maps in front of mining: a norm, and a linear layer."""
    key = f"model.vlm_uni_{name}_projector."
    return linear(norm(x, weights, key + "0", 1e-5), weights, key + "1")


def mine(low, high, weights):
    """Features (P, C) of one tile, patch by patch, of its patches and its map (C_high, H, H)."""
    side = round(len(low) ** 0.5)
    cell = high.shape[-1] // side
    rows = []
    for index, patch in enumerate(low):
        top, left = index // side * cell, index % side * cell
        place = high[:, top : top + cell, left : left + cell].flatten(1).T  # (cell^2, C_high)
        query, keys = ask(patch, weights, "query"), ask(place, weights, "aux")
        weight = torch.softmax(keys @ query / math.sqrt(len(query)), dim=0)
        rows.append(patch + weight @ ask(place, weights, "val"))
    return torch.stack(rows)


@torch.no_grad()
def see(low, high, weights, sizes, *, grid=1, whole=False):
    """Visual tokens (V, D) of one picture.

    Args:
        low: (T, 3, s, s), the overview last.
        high: (3, S, S).
        weights: by the authors' keys.
        sizes: of CLIP.
    """
    weights = {key: value.double() for key, value in weights.items()}
    patches = see_low(low.double(), weights, sizes)
    fine = see_high(high.double()[None], weights)[0]  # (C, S / 4, S / 4)
    side = fine.shape[-1] // grid
    parts = []
    if whole:
        parts.append(mine(patches[-1], shrink(fine[None], side)[0], weights))
    for tile in range(grid**2):
        top, left = tile // grid * side, tile % grid * side
        place = fine[:, top : top + side, left : left + side]
        parts.append(mine(patches[tile], place, weights))
    rows = torch.cat(parts)
    hidden = gelu(linear(rows, weights, "model.mm_projector.0"))
    return linear(hidden, weights, "model.mm_projector.2")
