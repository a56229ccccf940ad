"""Choices that published methods make inside the decoder, composed of other parts: DART.

FastV, PyramidDrop and VScan's second stage need no composition: they are `top_k` of the last
token's attention. SIEVE is `choose_discounted` over `measure_residual`, TOPS `choose_tops`. Leading
dimensions are a batch.
"""

from collections.abc import Sequence

import torch

from sparsight.methods.parts.tensors import list_marked, normalise, take


def choose_pivots(
    norm: torch.Tensor,
    visual: torch.Tensor,
    text: torch.Tensor,
    image_pivots: int,
    text_pivots: int,
    *,
    present: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return places of the visual tokens, then of the text tokens, with the largest norms.

    Source: DART, 4 and 4.
    Differs: they come by falling norm. The code walks a Python set, whose order says nothing and
    changes the result. A text of fewer tokens than pivots has them as pivots again, in turn.

    Args:
        norm: (..., n) float, of all tokens of the sequence.
        visual: (..., V) int64, places of the visual tokens.
        text: (..., T) int64, places of the text behind them.
        image_pivots: at most V.
        text_pivots: of the text.
        present: (..., T) bool, False for rows of the text that do not count; None if all count.
    Returns: (..., image_pivots + text_pivots) int64.
    """
    if present is None:
        present = torch.ones_like(text, dtype=torch.bool)
    pivots = []
    for places, counted, count in (
        (visual, torch.ones_like(visual, dtype=torch.bool), image_pivots),
        (text, present, text_pivots),
    ):
        score = norm.gather(-1, places).masked_fill(~counted, float("-inf"))
        order = torch.sort(score, dim=-1, descending=True, stable=True).indices
        turns = torch.arange(count, device=order.device) % counted.sum(dim=-1, keepdim=True)
        pivots.append(places.gather(-1, order.gather(-1, turns)))
    return torch.cat(pivots, dim=-1)


def choose_unlike_pivots(
    hidden: torch.Tensor,
    pivots: torch.Tensor,
    visual: torch.Tensor,
    counts: Sequence[int],
    image_pivots: int,
) -> torch.Tensor:
    """Return the visual tokens among the pivots, and for each pivot in turn those least like it.

    Source: DART, authors' code: what one pivot chose is no longer free for the next.

    Args:
        hidden: (..., n, D) float, of all tokens of the sequence, after the final norm.
        pivots: (..., P) int64, places in the sequence, in the order in which they choose.
        visual: (..., V) int64, ascending places of the visual tokens.
        counts: (P,) how many tokens each pivot chooses.
        image_pivots: how many of the pivots are visual.
    Returns: (..., image_pivots + sum of counts) int64, in the order of choice, counted among the
    visual tokens.
    """
    units = normalise(take(hidden, visual))  # (..., V, D)
    alike = normalise(take(hidden, pivots)) @ units.transpose(-1, -2)  # (..., P, V)
    taken = (visual[..., None] == pivots[..., None, :]).any(dim=-1)
    order = [list_marked(taken, image_pivots)]
    for turn, count in enumerate(counts):
        left = alike[..., turn, :].masked_fill(taken, float("inf"))
        order.append(torch.sort(left, dim=-1, stable=True).indices[..., :count])
        taken = taken.scatter(-1, order[-1], True)
    return torch.cat(order, dim=-1)
