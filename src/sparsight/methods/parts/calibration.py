"""What is added to attention logits so that a pruned sequence attends as the whole one did.

Leading dimensions are a batch. A bias is added to the logits of every head before the softmax.
"""

from collections.abc import Sequence

import torch

from sparsight.methods.parts.tensors import normalise, widen, widest


def bias_of_sizes(sizes: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of how many tokens each key stands for.

    Source: ToMe (arXiv 2210.09461), proportional attention; RESTORE (arXiv 2606.01711), layers
    1 and later. In layer 0 RESTORE adds the same log(N / K) to each visual key: give N / K then.

    Args: sizes: (..., N), at least 1; 1 for text.
    Returns: (..., N) float32 or wider, for all queries.
    """
    return widen(sizes).log() if sizes.is_floating_point() else sizes.float().log()


def bias_of_distance(
    positions: torch.Tensor, inverse_frequencies: torch.Tensor, length: int, constant: float = 2.0
) -> torch.Tensor:
    """Return the bias that makes up for keys that stand far from their query.

    It is log(constant - D) for a key at or before its query, with D the mean over frequencies of
    the cosine of the angle between them, and 0 above the diagonal.

    Source: RESTORE (arXiv 2606.01711), for the prefill, text included.

    Args:
        positions: (..., N) int64, ascending rotary positions.
        inverse_frequencies: (d/2,) float, of the rotary embedding.
        length: every position lies in 0..length-1.
        constant: c, above 1.
    Returns: (..., N, N) float32 or wider, queries by keys.
    """
    return bias_of_axes(positions[..., None], [inverse_frequencies], length, constant)


def bias_of_axes(
    positions: torch.Tensor,
    inverse_frequencies: Sequence[torch.Tensor],
    length: int,
    constant: float = 2.0,
) -> torch.Tensor:
    """Return the bias of distance for positions of several axes, such as time, row and column.

    Source: RESTORE: D is the sum over axes of their share of frequencies times the mean cosine of
    the distance along that axis. A key at or before its query is one that stands no later in the
    sequence.

    Args:
        positions: (..., N, A) int64.
        inverse_frequencies: A tensors of float, those that turn with each axis.
        length: every position lies in 0..length-1.
        constant: c, above 1.
    Returns: (..., N, N) float32 or wider, queries by keys.
    """
    total = sum(len(axis) for axis in inverse_frequencies)
    like = widen(inverse_frequencies[0]).new_zeros(())
    for number, frequencies in enumerate(inverse_frequencies):
        place = positions[..., number]
        apart = (place[..., :, None] - place[..., None, :]).abs()
        # one cosine for each distance there is, not one for each pair and frequency
        steps = torch.arange(length, device=place.device)[:, None]
        angles = steps * frequencies.to(widest(frequencies.device))
        like = like + (angles.cos().sum(dim=-1) / total).to(like.dtype)[apart]
    return (constant - like).log().tril()


def bias_of_tables(
    cosines: torch.Tensor, sines: torch.Tensor, constant: float = 2.0
) -> torch.Tensor:
    """Return the bias of distance from the rotary tables of the tokens.

    D, the mean cosine of the angles between two tokens, is the cosine between their rows of the
    tables: cos a cos b + sin a sin b = cos(a - b). So it is that of `bias_of_distance`, and of
    `bias_of_axes` where frequencies turn with several axes, whatever positions are made of.
    Differs: D does not tell before from behind, and no pair is set to 0: masks decide which exist.

    Args:
        cosines: (..., N, d) of each token's angles; a factor on both tables changes nothing.
        sines: (..., N, d).
        constant: c, above 1.
    Returns: (..., N, N) float32 or wider, queries by keys.
    """
    turned = normalise(torch.cat([cosines, sines], dim=-1))
    like = turned @ turned.transpose(-1, -2)
    return (constant - like.clamp_max(1.0)).log()
