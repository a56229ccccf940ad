"""Duplicates among the pixels of patches, before the encoder sees them (PixelPrune).

Leading dimensions are a batch of images of equal size. The count depends on the image.
"""

from typing import Literal

import torch

from sparsight.counts.layout import Grid
from sparsight.methods.parts.tensors import widen

Metric = Literal["max", "mean", "rms"]


def mark_unpredicted(
    pixels: torch.Tensor, grid: Grid, tolerance: float = 0.0, metric: Metric = "max"
) -> torch.Tensor:
    """Return which tokens differ from what their left, upper and upper left neighbours predict.

    A token is predicted to be like the upper one where the left and the upper left are alike and
    the upper left and the upper are not; else like the left one. The first row looks left, the
    first column up. A token that is dropped counts from then on as what was predicted.

    Source: PixelPrune (arXiv 2604.00886).
    Differs: without a tolerance all tokens are compared at once, as dropped ones equal what was
    predicted; with one, an anti-diagonal of the grid at a time.

    Args:
        pixels: (..., h w, P) float in 0..1, a merged token's patches in a row, in raster order.
        grid: h and w.
        tolerance: difference up to which tokens are alike.
        metric: how the differences of P values become one.
    Returns: (..., h w) bool, the first always True.
    """
    image = widen(pixels).reshape(*pixels.shape[:-2], *grid, pixels.shape[-1])  # (..., h, w, P)
    if tolerance == 0:
        return _mark_different(image).flatten(-2)
    return _mark_along_diagonals(image, tolerance, metric).flatten(-2)


def _mark_different(image: torch.Tensor) -> torch.Tensor:
    height, width = image.shape[-3:-1]
    kept = torch.ones(image.shape[:-1], dtype=torch.bool, device=image.device)
    like_left = (image[..., :, 1:, :] == image[..., :, :-1, :]).all(dim=-1)  # (..., h, w - 1)
    like_upper = (image[..., 1:, :, :] == image[..., :-1, :, :]).all(dim=-1)  # (..., h - 1, w)
    if width > 1:
        kept[..., 0, 1:] = ~like_left[..., 0, :]
    if height > 1:
        kept[..., 1:, 0] = ~like_upper[..., :, 0]
    # a corner that is like both neighbours makes them equal, so that either may predict
    take_upper = like_upper[..., :, :-1]
    like = torch.where(take_upper, like_upper[..., :, 1:], like_left[..., 1:, :])
    kept[..., 1:, 1:] = ~like
    return kept


def _mark_along_diagonals(image: torch.Tensor, tolerance: float, metric: Metric) -> torch.Tensor:
    height, width = image.shape[-3:-1]
    rebuilt = image.clone()  # what is known of each token where dropped ones are predicted
    kept = torch.ones(image.shape[:-1], dtype=torch.bool, device=image.device)
    for diagonal in range(1, height + width - 1):
        rows = torch.arange(
            max(0, diagonal - width + 1), min(diagonal, height - 1) + 1, device=image.device
        )
        columns = diagonal - rows
        up, back = (rows - 1).clamp_min(0), (columns - 1).clamp_min(0)
        left, upper = rebuilt[..., rows, back, :], rebuilt[..., up, columns, :]
        corner = rebuilt[..., up, back, :]
        take_upper = _alike(corner, left, tolerance, metric) & ~_alike(
            corner, upper, tolerance, metric
        )
        take_upper = ((columns == 0) | take_upper) & (rows != 0)
        predicted = torch.where(take_upper[..., None], upper, left)
        own = image[..., rows, columns, :]
        same = _alike(own, predicted, tolerance, metric)
        kept[..., rows, columns] = ~same
        rebuilt[..., rows, columns, :] = torch.where(same[..., None], predicted, own)
    return kept


def _alike(
    first: torch.Tensor, second: torch.Tensor, tolerance: float, metric: Metric
) -> torch.Tensor:
    apart = (first - second).abs()
    if metric == "max":
        return apart.amax(dim=-1) <= tolerance
    if metric == "mean":
        return apart.mean(dim=-1) <= tolerance
    return apart.square().mean(dim=-1).sqrt() <= tolerance
