"""The baselines' choices, slowly: loops and exact fractions. Imports nothing of sparsight."""

import math
from fractions import Fraction
from itertools import pairwise

import torch

from tests.support import reference as ref


def share(count, sizes, most=None):
    """Return parts of `count`: one each, then one by one to the part furthest below its share."""
    parts = [0] * len(sizes)
    if count >= len(sizes):
        parts = [1] * len(sizes)
    while sum(parts) < count:
        missing = [
            Fraction(count * size, sum(sizes)) - part
            if part < (size if most is None else most)
            else None
            for size, part in zip(sizes, parts, strict=True)
        ]
        parts[missing.index(max(m for m in missing if m is not None))] += 1
    return parts


def cells(height, width, count):
    """Lists of the tokens of each cell."""
    bands = min(
        max(round(math.sqrt(count * height / width)), math.ceil(count / width)), height, count
    )
    edges = [band * height // bands for band in range(bands + 1)]
    found = []
    heights = [end - start for start, end in pairwise(edges)]
    for band, parts in enumerate(share(count, heights, width)):
        rows = range(edges[band], edges[band + 1])
        for part in range(parts):
            columns = [column for column in range(width) if column * parts // width == part]
            found.append([row * width + column for row in rows for column in columns])
    return found


def centre(members, width):
    """The member nearest to the mean place; of equally near ones the first."""
    row = Fraction(sum(m // width for m in members), len(members))
    column = Fraction(sum(m % width for m in members), len(members))
    return min(members, key=lambda m: ((m // width - row) ** 2 + (m % width - column) ** 2, m))


def cells_of(grids, count):
    """Cells of all grids, as names of tokens, and their centres."""
    members = []
    centres = []
    first = 0
    for (height, width), part in zip(grids, share(count, [h * w for h, w in grids]), strict=True):
        own = cells(height, width, part) if part else []
        for cell in own:
            members.append([first + m for m in cell])
            centres.append(first + centre(cell, width))
        first += height * width
    return members, centres


def small_grid(grids, retain):
    """Return the grid each image is scaled down to: sides scaled alike, both roundings tried."""
    height, width = grids[0]
    most = (
        retain // len(grids)
        if isinstance(retain, int)
        else math.floor(retain * height * width + 1e-9)
    )
    scale = math.sqrt(most / (height * width))
    rows, columns = (
        [math.floor(n * scale + 1e-9), math.ceil(n * scale - 1e-9)] for n in (height, width)
    )
    fit = [(h, w) for h in rows for w in columns if h * w <= most]
    return max(fit, key=lambda small: (small[0] * small[1], -small[0]))


def under(grid, small):
    """For each token of a grid, the token of the smaller grid that lies under it."""
    return [
        row * small[0] // grid[0] * small[1] + column * small[1] // grid[1]
        for row in range(grid[0])
        for column in range(grid[1])
    ]


def choose(method, site, grids, images, count):
    """Return indices among the tokens present: kept ones, scores, clusters, their centres."""
    name, present = type(method).__name__, len(images)
    if name == "Random":
        seed = ((method.seed * 4099 + site) * 1_000_003 + present) % 2**63
        score = torch.randperm(present, generator=torch.Generator().manual_seed(seed)).tolist()
        return ref.choose(score, count, images), score, [], []
    if name == "Downscale":
        keep, first = [], 0
        for height, width in grids:
            below = under((height, width), small_grid(grids, method.retain))
            for cell in range(max(below) + 1):
                keep.append(
                    first + centre([t for t in range(height * width) if below[t] == cell], width)
                )
            first += height * width
        return keep, None, [], []
    members, centres = cells_of(grids, count)
    if name == "Pool":
        return [], None, members, centres
    if present == sum(height * width for height, width in grids):
        return sorted(centres), None, [], []
    spread = [math.floor((i + 0.5) * present / count) for i in range(count)]
    return ref.choose([float(i in spread) for i in range(present)], count, images), None, [], []
