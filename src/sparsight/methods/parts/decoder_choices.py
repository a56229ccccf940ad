"""Choices that published methods make inside the decoder, composed of other parts: DART.

FastV, PyramidDrop and VScan's second stage need no composition: they are `top_k` of the last
token's attention. SIEVE is `choose_discounted` over `measure_residual`, TOPS `choose_tops`. Leading
dimensions are a batch.
"""

import torch

from sparsight.methods.parts.tensors import normalise, take


def choose_pivots(
    norm: torch.Tensor,
    visual: torch.Tensor,
    text: torch.Tensor,
    image_pivots: int,
    text_pivots: int,
) -> torch.Tensor:
    """Return places of the visual tokens, then of the text tokens, with the largest norms.

    Source: DART, 4 and 4.
    Differs: they come by falling norm. The code walks a Python set, whose order says nothing and
    changes the result.

    Args:
        norm: (..., n) float, of all tokens of the sequence.
        visual: (..., V) int64, places of the visual tokens.
        text: (..., T) int64, places of the text behind them.
        image_pivots: at most V.
        text_pivots: at most T.
    Returns: (..., image_pivots + text_pivots) int64.
    """
    pivots = []
    for places, count in ((visual, image_pivots), (text, text_pivots)):
        order = torch.sort(norm.gather(-1, places), dim=-1, descending=True, stable=True).indices
        pivots.append(places.gather(-1, order[..., :count]))
    return torch.cat(pivots, dim=-1)


def choose_unlike_pivots(
    hidden: torch.Tensor, pivots: torch.Tensor, visual: torch.Tensor, each: int, image_pivots: int
) -> torch.Tensor:
    """Return the visual tokens among the pivots, and for each pivot in turn those least like it.

    Source: DART, authors' code: what one pivot chose is no longer free for the next.

    Args:
        hidden: (..., n, D) float, of all tokens of the sequence, after the final norm.
        pivots: (..., P) int64, places in the sequence, in the order in which they choose.
        visual: (..., V) int64, ascending places of the visual tokens.
        each: tokens that each pivot chooses.
        image_pivots: how many of the pivots are visual.
    Returns: (..., image_pivots + P each) int64, ascending, counted among the visual tokens.
    """
    units = normalise(take(hidden, visual))  # (..., V, D)
    alike = normalise(take(hidden, pivots)) @ units.transpose(-1, -2)  # (..., P, V)
    taken = (visual[..., None] == pivots[..., None, :]).any(dim=-1)
    for turn in range(pivots.shape[-1]):
        left = alike[..., turn, :].masked_fill(taken, float("inf"))
        chosen = torch.sort(left, dim=-1, stable=True).indices[..., :each]
        taken = taken.scatter(-1, chosen, True)
    order = torch.sort((~taken).byte(), dim=-1, stable=True).indices
    return order[..., : image_pivots + pivots.shape[-1] * each]
