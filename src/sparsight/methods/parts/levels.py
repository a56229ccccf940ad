"""How many tokens a sample deserves, by what its text and image tell of each other (AutoPrune).

The counts of other methods are known from the budget alone; see `sparsight.counts`.
"""

import math

import torch

from sparsight.counts.schedule import PAPER_LAYERS
from sparsight.methods.parts.tensors import widest

MIDDLE = 14.9  # layer of 32 around which AutoPrune's curve falls


def measure_mutual_information(attention: torch.Tensor) -> torch.Tensor:
    """Return the mutual information of text and visual tokens, in bits, summed over heads.

    Source: AutoPrune (arXiv 2509.23931), authors' code: rows are not scaled up to sum up to 1, so
    that attention paid to text lowers it.

    Args: attention: (..., H, M, N) float, from text tokens to visual tokens.
    Returns: (...) float64 where the device has it.
    """
    text = attention.shape[-2]
    joint = attention.to(widest(attention.device)) / text
    expected = joint.sum(dim=-2, keepdim=True) / text
    return (joint * (joint / (expected + 1e-6)).clamp_min(1e-6).log2()).sum(dim=(-3, -2, -1))


def score_first_layer(class_attention: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """Return AutoPrune's score in layer 0: class-token attention plus weighted text attention.

    Source: AutoPrune, authors' code: 0.3 times the mutual information per text token times the mean
    attention over heads and text tokens.

    Args:
        class_attention: (..., N) float, of the encoder.
        attention: (..., H, M, N) float, from text tokens to visual tokens in layer 0.
    Returns: (..., N) float64 where the device has it.
    """
    wide = attention.to(widest(attention.device))
    weight = 0.3 * measure_mutual_information(attention) / attention.shape[-2]
    return class_attention.to(wide.dtype) + weight[..., None] * wide.mean(dim=(-3, -2))


def find_slope(information: float, start: float = 0.4, gamma: float = 0.2) -> float:
    """Return the slope of AutoPrune's curve: start - gamma times the information, at least 0."""
    return max(start - gamma * information, 0.0)


def draw_curve(slope: float, layers: int, middle: float = MIDDLE) -> list[float]:
    """Return AutoPrune's unscaled fraction of tokens that stay in each layer, a falling logistic.

    Args:
        slope: at least 0; 0 keeps the fraction constant.
        layers: L of the decoder.
        middle: layer at which half is lost; published for 32 layers.
    Returns: L - 1 numbers.
    """
    return [0.75 / (1 + math.exp(slope * (layer - middle - slope))) for layer in range(1, layers)]


def stretch_curve(slope: float, layers: int) -> list[float]:
    """Return AutoPrune's curve, stretched from the 32 layers of its source to a decoder's depth.

    Args:
        slope: at 32 layers.
        layers: L of the decoder.
    Returns: L - 1 numbers, for 32 layers those of `draw_curve`.
    """
    steeper = slope * PAPER_LAYERS / layers
    middle = (MIDDLE + slope) * layers / PAPER_LAYERS - steeper
    return draw_curve(steeper, layers, middle)


def count_kept(fraction: float, target: int, start: int) -> int:
    """Return the visual tokens that a layer keeps by AutoPrune's curve, none recycled.

    Args: as of `plan_counts`; one fraction of the curve.
    """
    return min(math.ceil((start - 1) * min(1.0, fraction)), int(2.5 * target))


def plan_counts(curve: list[float], target: int, start: int) -> list[int]:
    """Return the visual tokens that leave each layer by a curve, recycled ones included.

    Source: AutoPrune, authors' code. Of what a layer drops, 30 % and one more are recycled into a
    tenth and one more, as in SparseVLM.

    Args:
        curve: fraction that stays in layers 1, 2 ..; more than 1 counts as 1.
        target: layer mean asked for; no layer keeps more than int(2.5 target).
        start: tokens that leave layer 0.
    Returns: one count for layer 0 and each of the curve.
    """
    counts = [start]
    for fraction in curve:
        kept = count_kept(fraction, target, start)
        pool = int(0.3 * (counts[-1] - kept)) + 1
        counts.append(kept + pool // 10 + 1)
    return counts


def fit_curve(curve: list[float], target: int, start: int) -> list[float]:
    """Return a curve scaled so that its counts have the layer mean asked for.

    Source: AutoPrune: bisection of the factor in 0..20.
    Differs: where no factor meets the mean exactly, the largest that stays below is taken.

    Args: as of `plan_counts`.
    Returns: the fractions, of which some may be above 1.
    """
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        total = sum(plan_counts([middle * part for part in curve], target, start))
        if total == target * (len(curve) + 1):
            low = middle
            break
        low, high = (low, middle) if total > target * (len(curve) + 1) else (middle, high)
    return [low * part for part in curve]
