"""Images for Qwen's tiny models in which many tokens repeat a neighbour, as on a page."""

import torch

from tests.support.tiny import Batch
from tests.support.tiny_rotary import MERGE, batch

CELLS = MERGE**2  # patches of a token


def repeat_neighbours(pixels, grids, share=0.6, seed=0):
    """Have a share of tokens repeat the pixels of their left or upper neighbour.

    Args:
        pixels: (n, P), patches in the order in which the model gets them.
        grids: (I, 3) frames, rows and columns of patches.
    """
    random = torch.Generator().manual_seed(seed)
    tokens = pixels.clone().unflatten(0, (-1, CELLS))
    first = 0
    for frames, height, width in grids.tolist():
        rows, columns = height // MERGE, width // MERGE
        for _ in range(frames):
            for index in range(1, rows * columns):
                row, column = divmod(index, columns)
                if float(torch.rand((), generator=random)) >= share:
                    continue
                upper = row and (not column or float(torch.rand((), generator=random)) < 0.5)
                tokens[first + index] = tokens[first + index - (columns if upper else 1)]
            first += rows * columns
    return tokens.flatten(0, 1)


def page(inputs, share=0.6, seed=0):
    """The inputs of a batch with such images and videos."""
    changed = dict(inputs)
    for kind, name in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        if name in inputs:
            grids = inputs[f"{kind}_grid_thw"]
            changed[name] = repeat_neighbours(inputs[name], grids, share, seed)
    return changed


def pages(kind, rows, dtype=torch.float64, share=0.6):
    """A batch of a tiny model with such images, and each sample alone."""
    made = batch(kind, rows, dtype)
    together, alone = page(made.inputs, share), []
    starts = {"image": 0, "video": 0}
    for own in made.alone:
        changed = dict(own)
        for part, name in (("image", "pixel_values"), ("video", "pixel_values_videos")):
            if name in own:
                count = len(own[name])
                changed[name] = together[name][starts[part] : starts[part] + count]
                starts[part] += count
        alone.append(changed)
    return Batch(together, alone)
