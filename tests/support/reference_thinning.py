"""Qwen's image encoders on some patches alone, slowly and image by image, in float64.

Of the model it takes weights, and what patches look like before the first block.
"""

import itertools
import math

import torch

from tests.support.reference_merging import unpredicted
from tests.support.tiny_rotary import MERGE, PATCH

THETA = 10_000.0


def kept_tokens(pixels, grids, tolerance=0.0, metric="max"):
    """Which tokens stay, counted over all images and frames.

    Args: pixels: (n, P), as the tolerance measures them.
    """
    kept, first = [], 0
    tokens = pixels.unflatten(0, (-1, MERGE**2)).flatten(1)
    for frames, height, width in grids.tolist():
        grid = height // MERGE, width // MERGE
        for _ in range(frames):
            own = tokens[first : first + grid[0] * grid[1]]
            kept += [first + i for i in unpredicted(own, grid, tolerance, metric)]
            first += len(own)
    return kept


def list_patches(grids):
    """Image, frame, row and column of each patch, in the order of the model's list."""
    places = []
    for image, (frames, height, width) in enumerate(grids.tolist()):
        cells = itertools.product(
            range(frames), range(height // MERGE), range(width // MERGE), range(MERGE), range(MERGE)
        )
        for frame, row, column, down, across in cells:
            places.append((image, frame, row * MERGE + down, column * MERGE + across))
    return places


def rotate(values, row, column):
    """One head's vector (d,) at a place: half of the angles are those of the row."""
    size = len(values) // 2
    steps = [THETA ** (-2 * i / size) for i in range(size // 2)]
    angles = torch.tensor([row * s for s in steps] + [column * s for s in steps]).double()
    first, second = values[:size], values[size:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin])


def turn(vectors, places):
    """One head's vectors (K, d), each at its place."""
    pairs = zip(vectors, places, strict=True)
    return torch.stack([rotate(vector, *place[2:]) for vector, place in pairs])


def attend(block, hidden, places, pieces):
    """Attention of patches (K, D), each to those of its own piece."""
    heads = block.attn.num_heads
    parts = block.attn.qkv(block.norm1(hidden)).unflatten(-1, (3, heads, -1))
    answers = torch.zeros(len(hidden), heads, parts.shape[-1], dtype=hidden.dtype)
    for head in range(heads):
        query, key = (turn(parts[:, part, head], places) for part in (0, 1))
        for piece in set(pieces):
            own = [i for i, other in enumerate(pieces) if other == piece]
            logits = query[own] @ key[own].T / math.sqrt(query.shape[-1])
            answers[own, head] = logits.softmax(dim=-1) @ parts[own, 2, head]
    return block.attn.proj(answers.flatten(1))


def first_inputs(visual, pixels, grids):
    """What goes into the first block of the whole encoder, (n, D) in the order of the list."""
    seen = []
    handle = visual.blocks[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args or (kwargs["hidden_states"],))[0]),
        with_kwargs=True,
    )
    visual(pixels, grid_thw=grids)
    handle.remove()
    if not hasattr(visual, "window_size"):
        return seen[0]
    side = visual.window_size // MERGE // PATCH * MERGE  # of a window, in patches
    cells = []
    for number, (image, frame, row, column) in enumerate(list_patches(grids)):
        cells.append((image, frame, row // side, column // side, number // MERGE**2, number))
    order = torch.tensor([cell[-1] for cell in sorted(cells)])
    return torch.empty_like(seen[0]).index_copy(0, order, seen[0])


@torch.no_grad()
def encode(visual, pixels, grids, kept):
    """Visual tokens of what stays, (K, D), and features of DeepStack.

    Args: kept: numbers of tokens.
    """
    rows = [token * MERGE**2 + cell for token in kept for cell in range(MERGE**2)]
    every = list_patches(grids)
    places = [every[row] for row in rows]
    hidden = first_inputs(visual, pixels, grids)[rows]
    whole = getattr(visual, "fullatt_block_indexes", range(len(visual.blocks)))
    deeper = []
    for index, block in enumerate(visual.blocks):
        pieces = [place[:2] for place in places]
        if index not in whole:
            side = visual.window_size // MERGE // PATCH * MERGE
            pieces = [(*p[:2], p[2] // side, p[3] // side) for p in places]
        hidden = hidden + attend(block, hidden, places, pieces)
        hidden = hidden + block.mlp(block.norm2(hidden))
        indices = getattr(visual, "deepstack_visual_indexes", ())
        if index in indices:
            deeper.append(visual.deepstack_merger_list[list(indices).index(index)](hidden))
    return visual.merger(hidden), deeper
