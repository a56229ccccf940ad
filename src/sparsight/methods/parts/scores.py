"""Scores: how much each visual token matters, by attention or distinctiveness; higher is kept.

Leading dimensions are a batch; everything is computed in float32 or wider.
"""

import torch

from sparsight.methods.parts.tensors import measure_length, widen

QUERY_BLOCK = 256  # rows of attention that exist at once


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    scale: float | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the attention that queries pay to keys.

    Args:
        query: (..., H, R, d) float.
        key: (..., H, N, d) float.
        scale: what the products are multiplied by; None for 1 / sqrt(d).
        bias: (..., H or 1, R or 1, N) float, added before the softmax.
    Returns: (..., H, R, N) float32 or wider, rows that sum up to 1.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = widen(query) @ widen(key).transpose(-1, -2) * scale
    return (logits if bias is None else logits + bias).softmax(dim=-1)


def score_class_attention(
    query: torch.Tensor, key: torch.Tensor, scale: float | None = None
) -> torch.Tensor:
    """Return the attention that the class token pays to each patch, mean over heads.

    Source: FasterVLM (arXiv 2412.01818), VisPruner; VisionZip takes the sum over heads, which ranks
    alike. PruMerge gives one head as wide as the encoder.

    Args:
        query: (..., H, 1 + N, d) float, or its first row alone, (..., H, 1, d).
        key: (..., H, 1 + N, d) float, the class token first.
        scale: what the products are multiplied by; None for 1 / sqrt(d).
    Returns: (..., N); the class token's share is dropped and the others are not scaled up.
    """
    return attend(query[..., :1, :], key, scale)[..., 0, 1:].mean(dim=-2)


def score_last_attention(
    query: torch.Tensor, key: torch.Tensor, visual: torch.Tensor, scale: float | None = None
) -> torch.Tensor:
    """Return the attention that the prompt's last token pays to each visual token, mean over heads.

    Source: FastV (arXiv 2403.06764, authors' code) with q and k of the layer before the site;
    PyramidDrop (arXiv 2410.17247, authors' code) with those that the layer of the site makes.

    Args:
        query: (..., H, d) float, the last token's, rotated where the model rotates.
        key: (..., H, N, d) float, keys of the tokens up to the last one.
        visual: (..., V) int64, places of the visual tokens among the N.
        scale: what the products are multiplied by; None for 1 / sqrt(d).
    Returns: (..., V).
    """
    attention = attend(query[..., None, :], key, scale)[..., 0, :].mean(dim=-2)  # (..., N)
    return attention.gather(-1, visual)


def score_attention_received(
    query: torch.Tensor,
    key: torch.Tensor,
    skip: int = 1,
    scale: float | None = None,
    causal: bool = False,
) -> torch.Tensor:
    """Return the attention that each token receives, mean over heads and over the rows that see it.

    Source: HiPrune (arXiv 2508.00553), where all 577 rows of the encoder count, the class token's
    too; FastV's paper, where a token is seen by itself and by later ones only.
    Differs: rows are taken in blocks, so that no N x N map exists.

    Args:
        query: (..., H, N, d) float.
        key: (..., H, N, d) float.
        skip: leading tokens, such as a class token, that are left out of the answer.
        scale: what the products are multiplied by; None for 1 / sqrt(d).
        causal: whether a row sees only itself and earlier tokens.
    Returns: (..., N - skip).
    """
    present, index = key.shape[-2], torch.arange(key.shape[-2], device=key.device)
    received = widen(key).new_zeros(*key.shape[:-3], present)
    for first in range(0, present, QUERY_BLOCK):
        rows = query[..., first : first + QUERY_BLOCK, :]
        hidden = index > index[first : first + QUERY_BLOCK, None] if causal else None
        bias = None if hidden is None else torch.where(hidden, float("-inf"), 0.0)
        received = received + attend(rows, key, scale, bias).mean(dim=-3).sum(dim=-2)
    return (received / (present - index if causal else present))[..., skip:]


def measure_key_norm(keys: torch.Tensor) -> torch.Tensor:
    """Return the L1 norm of each token's keys over all heads.

    Source: DART (arXiv 2502.11494), authors' code; keys after rotation.

    Args: keys: (..., H, N, d) float.
    Returns: (..., N).
    """
    return widen(keys).abs().sum(dim=(-3, -1))


def measure_distinctiveness(points: torch.Tensor) -> torch.Tensor:
    """Return how little each token is like the others: minus the mean cosine to them.

    Source: Cen-Prune (arXiv 2608.30263), in its linear form (1 - N <u_i, mean u>) / (N - 1).

    Args: points: (..., N, D) float, N at least 2.
    Returns: (..., N) in -1..1.
    """
    wide, count = widen(points), points.shape[-2]
    inverse = 1 / measure_length(wide)  # (..., N, 1); no copy of the points is made
    shared = inverse.mT @ wide  # (..., 1, D), sum of the unit vectors
    return (1 - (wide @ shared.mT * inverse)[..., 0]) / (count - 1)


def share_distinct(points: torch.Tensor, part: float) -> torch.Tensor:
    """Return the share of tokens that are far more distinctive than the least distinctive one.

    Args:
        points: (..., N, D) float.
        part: of the way from the least to the most distinctive token, in 0..1, behind which tokens
            count. Where all are alike, none does.
    Returns: (...) in 0..1.
    """
    distinct = measure_distinctiveness(points)
    low, high = distinct.amin(dim=-1, keepdim=True), distinct.amax(dim=-1, keepdim=True)
    return (distinct > low + part * (high - low)).float().mean(dim=-1)


def scale_min_max(
    score: torch.Tensor,
    dim: int | tuple[int, ...] = -1,
    above: float = 0.0,
    below: float = 0.0,
) -> torch.Tensor:
    """Return scores moved and stretched to 0..1 over `dim`; where all are equal, all become 1.

    Source: Cen-Prune's weight; CDPruner adds 1e-6 above the line, its port in OpenVINO below it,
    EADP both. Cen-Prune's text names no epsilon.
    Differs: equal scores give 1, where a range of 0 would give NaN or zeros.

    Args:
        score: (..., N) float.
        dim: dimensions over which the lowest and the highest score are sought; (-2, -1) scales over
            all crops of an image.
        above: added to each score's distance from the lowest.
        below: added to the range.
    Returns: (..., N) float32 or wider.
    """
    score = widen(score)
    low, high = score.amin(dim=dim, keepdim=True), score.amax(dim=dim, keepdim=True)
    flat = high == low
    scaled = (score - low + above) / (torch.where(flat, 1.0, high - low) + below)
    return torch.where(flat, 1.0, scaled)


def scale_sigmoid(score: torch.Tensor, epsilon: float = 1e-6) -> torch.Tensor:
    """Return the sigmoid of scores (..., N) in units of their standard deviation from their mean.

    Source: Cen-Prune's weight for encoders whose channels were standardised.
    Differs: epsilon, which the text does not give, is added to the deviation.
    """
    score = widen(score)
    mean = score.mean(dim=-1, keepdim=True)
    return ((score - mean) / (score.std(dim=-1, keepdim=True, correction=0) + epsilon)).sigmoid()
