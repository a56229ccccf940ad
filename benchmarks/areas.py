"""Areas under the curve: how well scores tell some tokens from others, place by place. Pure.

A place is where a score is read: a decoder layer, an encoder block, or the input.
"""

from collections.abc import Sequence

import numpy as np
import torch

RESAMPLES = 2000
CHANCE = 0.5


def measure_areas(scores: torch.Tensor, evidence: torch.Tensor) -> torch.Tensor:
    """Return the chance that an evidence token scores higher than another one; ties count half.

    Args:
        scores: (..., V) float.
        evidence: (V,) bool, with at least one True and one False.
    Returns: (...,) float64 in 0..1.
    """
    inside = scores[..., evidence].contiguous()
    outside = scores[..., ~evidence].sort(dim=-1).values
    below = torch.searchsorted(outside, inside)
    not_above = torch.searchsorted(outside, inside, right=True)
    pairs = inside.shape[-1] * outside.shape[-1]
    return (below + not_above).double().sum(dim=-1) / (2 * pairs)


def choose_by_halves(areas: torch.Tensor) -> torch.Tensor:
    """Return each question's areas by the head that does best on the other half of the questions.

    Even and odd questions are the halves, so that no question has a say in its own head.

    Args: areas: (Q, L, H) of Q questions, at least 2, and H heads of each of L places.
    Returns: (Q, L).
    """
    best = torch.empty_like(areas[..., 0])
    for half in (0, 1):
        heads = areas[1 - half :: 2].mean(dim=0).argmax(dim=-1)  # (L,)
        own = areas[half::2]
        best[half::2] = own.gather(2, heads[None, :, None].expand(len(own), -1, 1))[..., 0]
    return best


def bootstrap_means(areas: torch.Tensor, seed: int = 0) -> list[tuple[float, float]]:
    """Return the 95 % interval of the mean at each place, by a bootstrap over questions.

    Args:
        areas: (Q, P) of Q questions at P places.
        seed: of the draws; every place gets the same ones.
    """
    table = areas.numpy()
    drawn = np.random.default_rng(seed).integers(len(table), size=(RESAMPLES, len(table)))
    counts = np.apply_along_axis(np.bincount, 1, drawn, minlength=len(table))  # (RESAMPLES, Q)
    low, high = np.percentile(counts @ table / len(table), (2.5, 97.5), axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def find_best(areas: Sequence[float]) -> int:
    """Return the first place whose area is furthest from chance, on either side of it."""
    return max(range(len(areas)), key=lambda place: abs(areas[place] - CHANCE))


def find_reached(areas: Sequence[float], share: float = 0.9, floor: float = 0.0) -> int:
    """Return the first place whose area exceeds a share of the highest area.

    Args:
        areas: of each place.
        share: in (0, 1).
        floor: what both are counted from: 0, or CHANCE for a share of what is gained over it.
    """
    limit = floor + share * (max(areas) - floor)
    return next(place for place, area in enumerate(areas) if area > limit)
