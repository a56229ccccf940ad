"""Scores by text: cosines to words, the words that say most, and what words do not explain.

Leading dimensions are a batch; everything is computed in float32 or wider.
"""

import math
from dataclasses import dataclass

import torch

from sparsight.counts.layout import Grid
from sparsight.methods.parts.geometry import Matrix, Similarity
from sparsight.methods.parts.tensors import normalise, widen, widest


def compare_words(points: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Return the cosine of each token to each word.

    Args:
        points: (..., N, D) float.
        words: (..., M, D) float; words, segments of a text, or one mean embedding.
    Returns: (..., N, M).
    """
    return normalise(points) @ normalise(words).transpose(-1, -2)


def score_segments(points: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
    """Return minus the mean cosine of each token to the segments of a text.

    Source: CDPruner (arXiv 2506.10967), in CLIP's space, where patches on an object are less like
    the sentence than others are.

    Args:
        points: (..., N, P) float.
        segments: (..., M, P) float.
    Returns: (..., N).
    """
    return -compare_words(points, segments).mean(dim=-1)


def score_eadp(
    points: torch.Tensor,
    words: torch.Tensor,
    sentence: torch.Tensor,
    *,
    share: float = 0.2,
    sharpness: float = 100.0,
    present: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return how relevant tokens are to the sentence and to the words that single tokens out most.

    A word's entropy over the tokens says how widely it spreads; the `share` of words with the
    lowest entropy count, weighted by softmax(-entropy / 0.01), in effect the single lowest.

    Source: EADP (arXiv 2607.02484), authors' code: cosines are negated for both text signals.
    Smoothing and scaling are `scale_min_max` and `smooth`.

    Args:
        points: (..., N, D) float.
        words: (..., M, D) float.
        sentence: (..., 1, D) float.
        share: of the words that count; at least one does.
        sharpness: what similarities are multiplied by before the softmax over tokens.
        present: (..., M) bool, False for rows of `words` that are none; None if all are words.
    Returns: (..., N).
    """
    alike = -compare_words(points, words)  # (..., N, M)
    logs = (sharpness * alike).log_softmax(dim=-2)
    entropy = -(logs.exp() * logs).sum(dim=-2)  # (..., M)
    if present is not None:
        entropy = entropy.masked_fill(~present, float("inf"))
    counts = [max(1, int(share * number)) for number in range(words.shape[-2] + 1)]
    lowest, index = (part[..., : counts[-1]] for part in entropy.sort(dim=-1, stable=True))
    if present is not None:  # of fewer words, fewer count
        limits = torch.tensor(counts).to(present.device, non_blocking=True)[present.sum(dim=-1)]
        place = torch.arange(counts[-1], device=present.device)
        lowest = lowest.masked_fill(place >= limits[..., None], float("inf"))
    weight = (-lowest / 0.01).softmax(dim=-1)
    chosen = alike.gather(-1, index[..., None, :].expand(*alike.shape[:-1], counts[-1]))
    local = (chosen * weight[..., None, :]).sum(dim=-1)
    return 0.5 * -compare_words(points, sentence)[..., 0] + 0.5 * local


def smooth(score: torch.Tensor, grid: Grid, sigma: float = 1.0) -> torch.Tensor:
    """Return scores of a grid after a 3 x 3 Gaussian filter whose edges are mirrored.

    Source: EADP (arXiv 2607.02484).
    Differs: a side of one token, which cannot be mirrored, is not smoothed along that side.

    Args:
        score: (..., h w) float, in raster order.
        grid: rows and columns.
        sigma: of the Gaussian, in tokens.
    Returns: (..., h w).
    """
    image = widen(score).reshape(*score.shape[:-1], *grid)
    edge = math.exp(-0.5 / sigma**2)
    for dim, size in ((-2, grid[0]), (-1, grid[1])):
        if size == 1:
            continue
        index = torch.arange(size, device=image.device)
        before = (index - 1).abs()
        after = size - 1 - (size - 2 - index).abs()
        sides = image.index_select(dim, before) + image.index_select(dim, after)
        image = (image + edge * sides) / (1 + 2 * edge)
    return image.flatten(-2)


def list_mmtok_rows(
    words: torch.Tensor,
    projected: torch.Tensor,
    similarity: Similarity,
    *,
    text_temperature: float = 0.02,
    visual_temperature: float = 0.2,
    alpha: float = 0.5,
    present: torch.Tensor | None = None,
) -> Matrix:
    """Return what `choose_coverage` is to cover: words and tokens, each by its shares of tokens.

    Source: MMTok (arXiv 2508.18264), authors' code: softmax over tokens of the words' cosines, over
    M, and of the tokens' own, times alpha, over N.

    Args:
        words: (..., M, D) float, input embeddings of the question's words.
        projected: (..., N, D) float, tokens as they enter the decoder.
        similarity: (..., N, N), cosines of the tokens before the projector.
        text_temperature: published 0.02, and 0.01 for Qwen.
        visual_temperature: published 0.2.
        alpha: weight of the tokens' rows.
        present: (..., M) bool, at least one True, False for rows of `words` that do not count; None
            if all do.
    Returns: (..., M + N, N), held as a whole.
    """
    asked = (compare_words(words, projected) / text_temperature).softmax(dim=-1)
    if present is None:
        asked = asked / words.shape[-2]
    else:
        asked = asked * present[..., None] / present.sum(dim=-1)[..., None, None]
    factor = alpha / similarity.shape[-1]
    seen = [
        (block / visual_temperature).softmax(dim=-1) * factor for _, block in similarity.blocks()
    ]
    kind = torch.promote_types(asked.dtype, seen[0].dtype)
    return Matrix(torch.cat([row.to(kind) for row in (asked, *seen)], dim=-2))


@dataclass(frozen=True)
class Residual:
    """What the text does not explain of each token.

    Args:
        points: (..., N, D) float, residuals.
        ratio: (..., N) float in 0..1, their length over that of the token.
    """

    points: torch.Tensor
    ratio: torch.Tensor


def measure_residual(
    visual: torch.Tensor,
    text: torch.Tensor,
    eta: float = 0.75,
    epsilon: float = 1e-6,
    present: torch.Tensor | None = None,
) -> Residual:
    """Return the part of each token that a ridge regression on the text's tokens leaves over.

    Source: SIEVE (2026), equations 2 to 14: the mean of the text is taken from both; the ridge is
    the first eigenvalue of the text's Gram matrix at which the cumulative share reaches eta.
    Differs: the system is solved in float64 where the device has it. A text of one token explains
    nothing.

    Args:
        visual: (..., N, D) float, hidden states of visual tokens.
        text: (..., M, D) float, those of the text behind the image.
        eta: share of the text's variance, in 0..1.
        epsilon: added to the ridge.
        present: (..., M) bool, False for rows of the text that do not count; None if all count.
    """
    wide = widest(visual.device)
    if present is None:
        present = torch.ones_like(text[..., 0], dtype=torch.bool)
    counts = present.sum(dim=-1, keepdim=True)  # (..., 1)
    words = text.to(wide).masked_fill(~present[..., None], 0.0)
    mean = words.sum(dim=-2, keepdim=True) / counts[..., None]
    # rows that do not count are zero, so they add eigenvalues of zero and no direction
    centred, words = visual.to(wide) - mean, (words - mean) * present[..., None]
    gram = words @ words.transpose(-1, -2)  # (..., M, M)
    values = torch.linalg.eigvalsh(gram).flip(-1).clamp_min(0)
    shares = values.cumsum(dim=-1) / values.sum(dim=-1, keepdim=True).clamp_min(epsilon)
    first = torch.minimum((shares < eta).sum(dim=-1, keepdim=True), counts - 1)
    ridge = values.gather(-1, first)[..., None] + epsilon
    eye = torch.eye(words.shape[-2], dtype=wide, device=words.device)
    # the ridge makes the system solvable, so there is no error to wait for
    weight = torch.linalg.solve_ex(gram + ridge * eye, words @ centred.transpose(-1, -2)).result
    residual = centred - weight.transpose(-1, -2) @ words
    lengths = torch.linalg.vector_norm(centred, dim=-1).clamp_min(torch.finfo(wide).tiny)
    ratio = torch.linalg.vector_norm(residual, dim=-1) / lengths
    kind = torch.promote_types(visual.dtype, torch.float32)
    return Residual(residual.to(kind), ratio.to(kind))


def sum_strongest_heads(attention: torch.Tensor, heads: int) -> torch.Tensor:
    """Return the attention summed over the heads that pay most to the image in all.

    Source: SIEVE, 12 of 32 heads.

    Args:
        attention: (..., H, N) float, summed over the text's tokens.
        heads: in 1..H.
    Returns: (..., N).
    """
    wide = widen(attention)
    order = torch.sort(wide.sum(dim=-1), dim=-1, descending=True, stable=True).indices
    index = order[..., :heads, None].expand(*wide.shape[:-2], heads, wide.shape[-1])
    return wide.gather(-2, index).sum(dim=-2)
