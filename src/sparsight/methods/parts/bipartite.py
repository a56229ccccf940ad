"""Bipartite merging (ToMe): every second token may join the most alike of the others.

Leading dimensions are a batch.
"""

import torch

from sparsight.errors import MethodError
from sparsight.methods.parts.geometry import BLOCK
from sparsight.methods.parts.tensors import normalise, widen


def match_bipartite(metric: torch.Tensor, fewer: int, class_token: bool = True) -> torch.Tensor:
    """Return which new token each token becomes part of, when `fewer` tokens join others.

    Tokens at even places each point to the most alike one at an odd place; the most alike pairs are
    merged. New tokens are the even ones that stay, in their order, then the odd ones. A class token
    at place 0 neither joins nor is joined.

    Source: ToMe (arXiv 2210.09461), section 3 and appendix D.
    Differs: without a class token the code sorts even ones by falling likeness; here their order is
    always kept.

    Args:
        metric: (..., N, d) float, mean over heads of a block's keys.
        fewer: at least 0; more than half of the tokens are never merged.
        class_token: whether token 0 is one.
    Returns: (..., N) int64 in 0..N'-1, N' = N - min(fewer, (N - class tokens) // 2).
    """
    units, present = normalise(metric), metric.shape[-2]
    even, odd = units[..., ::2, :], units[..., 1::2, :]
    merged = min(fewer, (present - class_token) // 2)
    likeness, nearest = _find_nearest(even, odd)
    if class_token:
        likeness = likeness.index_fill(
            -1, torch.zeros(1, dtype=torch.int64, device=units.device), float("-inf")
        )
    order = torch.sort(likeness, dim=-1, descending=True, stable=True).indices
    joins = torch.zeros_like(likeness, dtype=torch.bool).scatter(-1, order[..., :merged], True)
    stays = even.shape[-2] - merged  # odd tokens are numbered behind the even ones that stay
    number = (~joins).long().cumsum(dim=-1) - 1
    owner = torch.empty(metric.shape[:-1], dtype=torch.int64, device=metric.device)
    owner[..., ::2] = torch.where(joins, stays + nearest, number)
    owner[..., 1::2] = torch.arange(odd.shape[-2], device=metric.device) + stays
    return owner


def _find_nearest(even: torch.Tensor, odd: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the highest cosine of each even token to an odd one, and which one that is."""
    blocks = [
        (even[..., first : first + BLOCK, :] @ odd.transpose(-1, -2)).max(dim=-1)
        for first in range(0, even.shape[-2], BLOCK)
    ]
    return (
        torch.cat([block.values for block in blocks], dim=-1),
        torch.cat([block.indices for block in blocks], dim=-1),
    )


def merge_sizes(sizes: torch.Tensor, owner: torch.Tensor, count: int) -> torch.Tensor:
    """Return how many patches each new token stands for.

    Args:
        sizes: (..., N) float, of the tokens before.
        owner: (..., N) int64 in 0..count-1, as `match_bipartite` returns it.
        count: N'.
    Returns: (..., N') float32 or wider.
    """
    wide = widen(sizes)
    return wide.new_zeros(*wide.shape[:-1], count).scatter_add(-1, owner, wide)


def merge_by_size(
    values: torch.Tensor, sizes: torch.Tensor, owner: torch.Tensor, count: int
) -> torch.Tensor:
    """Return new tokens as means of the old ones, each weighted by how many patches it stands for.

    Source: ToMe.

    Args:
        values: (..., N, D) float.
        sizes: (..., N) float, of the tokens before.
        owner: (..., N) int64 in 0..count-1.
        count: N'.
    Returns: (..., N', D), dtype of `values`.
    """
    wide = widen(values) * widen(sizes)[..., None]
    index = owner[..., None].expand_as(wide)
    total = wide.new_zeros(*wide.shape[:-2], count, wide.shape[-1]).scatter_add(-2, index, wide)
    return (total / merge_sizes(sizes, owner, count)[..., None]).to(values.dtype)


def plan_merges(present: int, count: int, blocks: int) -> tuple[int, ...]:
    """Return how many tokens each block merges so that `count` are left after the last.

    Blocks merge equal numbers, early ones take the remainder. A block merges more where later ones,
    which merge half of their tokens at most, could not make up for it.

    Source: ToMe's constant schedule.
    Differs: the published constant leaves a count of its own; here the sum is exact.

    Args:
        present: N patches, a class token not counted.
        count: in 1..N.
        blocks: at least 1.
    Raises: MethodError: halving the tokens in every block would leave more than `count`.
    """
    if not 1 <= count <= present or present > count * 2**blocks:
        raise MethodError(
            f"{present} tokens cannot become {count} in {blocks} blocks, each of which may halve "
            f"them; give a count of {-(-present // 2**blocks)}..{present}."
        )
    parts: list[int] = []
    for left in range(blocks, 0, -1):
        now = present - sum(parts)
        parts.append(max(-(-(now - count) // left), now - count * 2 ** (left - 1)))
    return tuple(parts)


def find_middles(
    owner: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, count: int
) -> torch.Tensor:
    """Return the patch of each new token that lies nearest to the mean place of its patches.

    Of patches equally near it is the first. Distances are whole numbers, so nothing is rounded.

    Args:
        owner: (..., P) int64 in 0..count-1, the new token of each patch.
        rows: (P,) int64, of each patch.
        columns: (P,) int64.
        count: N'.
    Returns: (..., N') int64 in 0..P-1, or P for a new token without patches.
    """
    patches = owner.shape[-1]

    def total(values: torch.Tensor) -> torch.Tensor:
        """Return the sum over each patch's group."""
        sums = values.new_zeros(*owner.shape[:-1], count).scatter_add(-1, owner, values)
        return sums.gather(-1, owner)

    size = total(torch.ones_like(owner))
    apart = torch.zeros_like(owner)
    for places in (rows, columns):
        own = places.expand_as(owner)
        apart = apart + (size * own - total(own)).square()
    index = torch.arange(patches, device=owner.device)
    none = torch.iinfo(torch.int64).max
    nearest = apart.new_full((*owner.shape[:-1], count), none)
    nearest = nearest.scatter_reduce(-1, owner, apart * patches + index, "amin")
    return torch.where(nearest == none, patches, nearest % patches)
