"""Choices made grid by grid: each image, tile or frame keeps its share of a sample's count."""

from collections.abc import Callable, Sequence

import torch

from sparsight.counts.layout import Layout, PatchGrid
from sparsight.methods.parts.cells import share
from sparsight.methods.parts.choosers import top_k
from sparsight.methods.parts.scores import scale_min_max

# (G, n) or (G, n, D) values of one grid's tokens are read by the chooser itself; it gets the grid
# and a count k, and answers (G, k) int64 places in the grid's raster order
GridChooser = Callable[[PatchGrid, int], torch.Tensor]
# gets (n, N) int64, the tokens of n grids of one size, and a count k; answers (G, n, k) int64
# places in the raster order of each
SizeChooser = Callable[[torch.Tensor, int], torch.Tensor]

AT_ONCE = 2**25  # pairs of tokens that are compared at once


def choose_by_grid(
    layout: Layout, count: int, group: int, device: torch.device, choose: GridChooser
) -> torch.Tensor:
    """Return tokens that are chosen in each grid for itself.

    Grids share the count by their sizes, at least one each where it allows that. Tokens that are no
    patch are kept only where the count is higher than there are patches.

    Args:
        layout: of V tokens.
        count: K in 1..V.
        group: G, samples that share the layout.
        device: of the answer.
        choose: chooses in one grid.
    Returns: (G, K) int64, ascending.
    """
    patches = min(count, len(layout) - len(layout.others))
    keep = [layout.others[: count - patches].to(device, non_blocking=True).expand(group, -1)]
    for grid, part in zip(layout.grids, share_by_grid(layout, patches), strict=True):
        if part:
            keep.append(grid.tokens.to(device, non_blocking=True)[choose(grid, part)])
    return torch.cat(keep, dim=-1).sort(dim=-1).values


def choose_by_size(
    layout: Layout, shares: Sequence[int], others: int, hidden: torch.Tensor, choose: SizeChooser
) -> torch.Tensor:
    """Return tokens that are chosen in each grid for itself, grids alike in one call.

    Args:
        layout: of V tokens.
        shares: tokens that each grid keeps.
        others: how many tokens that are no patch are kept, the first ones.
        hidden: (G, V, D), samples that share the layout.
        choose: chooses in grids of one size.
    Returns: (G, K) int64, ascending.
    """
    group, device = len(hidden), hidden.device
    alike: dict[tuple[int, int], list[torch.Tensor]] = {}
    for grid, count in zip(layout.grids, shares, strict=True):
        if count:
            alike.setdefault((len(grid.tokens), count), []).append(grid.tokens)
    keep = [layout.others[:others].to(device, non_blocking=True).expand(group, -1)]
    for (size, count), grids in alike.items():
        most = max(1, AT_ONCE // (group * size * size))
        for first in range(0, len(grids), most):
            tokens = torch.stack(grids[first : first + most]).to(device, non_blocking=True)
            places = choose(tokens, count)  # (G, n, k)
            keep.append(tokens.expand(group, -1, -1).gather(-1, places).flatten(1))
    return torch.cat(keep, dim=-1).sort(dim=-1).values


def share_by_grid(layout: Layout, count: int) -> tuple[int, ...]:
    """Return how many patches of each grid a count allows, by the sizes of the grids.

    Args: count: at most the number of patches.
    """
    return share(count, [len(grid.tokens) for grid in layout.grids])


def scale_by_image(
    layout: Layout, scores: Sequence[torch.Tensor], above: float = 0.0, below: float = 0.0
) -> list[torch.Tensor]:
    """Return scores stretched to 0..1 over each image: over its tiles, or its frames, together.

    Args:
        layout: of V tokens.
        scores: (G, n) of each grid.
        above: added to each score's distance from the lowest of its image.
        below: added to the range.
    """
    scaled = list(scores)
    for image in dict.fromkeys(grid.image for grid in layout.grids):
        places = [place for place, grid in enumerate(layout.grids) if grid.image == image]
        sizes = [scores[place].shape[-1] for place in places]
        joined = torch.cat([scores[place] for place in places], dim=-1)
        parts = torch.split(scale_min_max(joined, above=above, below=below), sizes, dim=-1)
        for place, part in zip(places, parts, strict=True):
            scaled[place] = part
    return scaled


def spread_by_grid(layout: Layout, scores: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the scores of each grid's tokens as those of all tokens, 0 for others, (G, V).

    Args:
        layout: of V tokens.
        scores: (G, n) of each grid.
    """
    spread = scores[0].new_zeros(len(scores[0]), len(layout))
    for grid, score in zip(layout.grids, scores, strict=True):
        tokens = grid.tokens.to(spread.device, non_blocking=True)
        spread = spread.index_copy(1, tokens, score)
    return spread


def keep_order(order: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens of a greedy choice with one of each image among them, and their scores.

    A score is higher the earlier a token was chosen, and 0 for tokens that were not. Where an image
    would disappear, its first token takes the place of the token that was chosen last.

    Args:
        order: (..., K) int64, tokens in the order of choice.
        images: (..., V) int64 image of each token.
    Returns: (..., K) int64 ascending, and (..., V) float32.
    """
    count = order.shape[-1]
    places = torch.arange(count, 0, -1, device=order.device, dtype=torch.float32)
    score = torch.zeros(images.shape, device=order.device)
    score = score.scatter(-1, order, places.expand(order.shape))
    return top_k(score, count, images), score
