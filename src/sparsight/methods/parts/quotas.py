"""Choosers by group: windows, strips, frames or clusters, each of which may keep so many tokens.

Leading dimensions are a batch. A group is named by its number, 0..C-1, for each token.
"""

import torch

from sparsight.counts.layout import Grid
from sparsight.methods.parts.choosers import top_k
from sparsight.methods.parts.tensors import list_marked, rank_descending, widest


def label_windows(grid: Grid, window: int, device: torch.device | None = None) -> torch.Tensor:
    """Return (h w,) int64, the square window that each token lies in, numbered in raster order.

    Source: VScan (arXiv 2505.22654): rows and columns that fill no window belong to the last one.
    Differs: a grid narrower than a window is one window, where the code raises.

    Args:
        grid: rows and columns.
        window: side of a window, in tokens.
        device: of the answer.
    """
    rows, columns = (torch.arange(n, device=device) // window for n in grid)
    most = [max(1, n // window) for n in grid]
    rows, columns = rows.clamp(max=most[0] - 1), columns.clamp(max=most[1] - 1)
    return (rows[:, None] * most[1] + columns).flatten()


def label_strips(present: int, strips: int, device: torch.device | None = None) -> torch.Tensor:
    """Return (N,) int64, the strip of raster order that each token lies in.

    Source: HoloV (arXiv 2510.02912), authors' code: strips are runs, not rectangles, and leading
    ones take the remainder.

    Args:
        present: N.
        strips: in 1..N.
        device: of the answer.
    """
    size, longer = divmod(present, strips)
    place, bound = torch.arange(present, device=device), longer * (size + 1)
    return torch.where(place < bound, place // (size + 1), longer + (place - bound) // size)


def rank_in_groups(score: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Return each token's place in its group by falling score, 0 for the highest.

    Args:
        score: (..., N).
        groups: (N,) or (..., N) int64.
    Returns: (..., N) int64; of equal scores the first comes first.
    """
    order = torch.sort(score, dim=-1, descending=True, stable=True).indices
    sorted_groups, by_group = groups.expand_as(order).gather(-1, order).sort(dim=-1, stable=True)
    order = order.gather(-1, by_group)  # by group, then by score
    place = torch.arange(score.shape[-1], device=score.device).expand_as(order)
    starts = torch.where(
        sorted_groups.diff(dim=-1, prepend=sorted_groups[..., :1] - 1) != 0, place, 0
    )
    return torch.empty_like(order).scatter(-1, order, place - starts.cummax(dim=-1).values)


def choose_in_groups(
    score: torch.Tensor, groups: torch.Tensor, quotas: torch.Tensor, count: int
) -> torch.Tensor:
    """Return the best tokens of each group, as many as its quota says.

    Args:
        score: (..., N).
        groups: (N,) or (..., N) int64 in 0..C-1.
        quotas: (C,) or (..., C) int64, at most the groups' sizes, which sum up to K.
        count: K.
    Returns: (..., K) int64, ascending.
    """
    rank, groups = rank_in_groups(score, groups), groups.expand_as(score)
    limits = quotas.expand(*score.shape[:-1], quotas.shape[-1]).gather(-1, groups)
    return list_marked(rank < limits, count)


def choose_in_windows(
    score: torch.Tensor, windows: torch.Tensor, limit: int, count: int
) -> torch.Tensor:
    """Return the best tokens, of which no window gives more than `limit`.

    Source: VScan: tokens are walked by falling score and taken while their window is below its
    limit.
    Differs: where the limits allow fewer than `count`, the best others fill up.

    Args:
        score: (..., N).
        windows: (N,) or (..., N) int64.
        limit: tokens of a window.
        count: K.
    Returns: (..., K) int64, ascending.
    """
    open_windows = rank_in_groups(score, windows) < limit
    return top_k(open_windows * score.shape[-1] - rank_descending(score), count)


def share_by_weight(weight: torch.Tensor, count: int, sizes: torch.Tensor) -> torch.Tensor:
    """Share a count out to groups in proportion to their weights.

    Each group gets the floor of its part; what is left goes one each to the heaviest.

    Source: HoloV, authors' code.
    Differs: what a group cannot hold goes to groups with room, one each by falling weight, round
    after round, as in the code of RESTORE; HoloV's code pads with zero vectors instead.

    Args:
        weight: (..., C) float >= 0, some of it above 0.
        count: K, at most the sum of the sizes.
        sizes: (C,) or (..., C) int64, tokens of each group.
    Returns: (..., C) int64, which sum up to K.
    """
    weight = weight.to(widest(weight.device))
    order = rank_descending(weight)
    parts = (count * weight / weight.sum(dim=-1, keepdim=True)).floor().long()
    parts = parts + (order < count - parts.sum(dim=-1, keepdim=True))
    room = (sizes - parts).clamp_min(0)
    over = (parts - sizes).clamp_min(0).sum(dim=-1, keepdim=True)
    return torch.minimum(parts, sizes) + deal_out(over, room, weight)


def deal_out(count: torch.Tensor, room: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return what each group gets when tokens are dealt one each by falling weight, in rounds.

    Args:
        count: (..., 1) int64, tokens to deal, at most the sum of the room.
        room: (..., C) int64 >= 0, what each group can take.
        weight: (..., C) float >= 0; of equal weights the first comes first.
    Returns: (..., C) int64, which sum up to `count`.
    """
    groups = room.shape[-1]
    # after t whole rounds a group holds min(room, t), which changes only where some room ends
    levels = room.sort(dim=-1).values
    filled = torch.minimum(room[..., None, :], levels[..., :, None]).sum(dim=-1)  # (..., C)
    ended = (filled <= count).sum(dim=-1, keepdim=True)  # groups whose room ends in these rounds
    below = torch.cat([torch.zeros_like(room[..., :1]), filled], dim=-1).gather(-1, ended)
    start = torch.cat([torch.zeros_like(room[..., :1]), levels], dim=-1).gather(-1, ended)
    rounds = start + (count - below) // (groups - ended).clamp_min(1)
    given = torch.minimum(room, rounds)
    behind = rank_descending(torch.where(room > rounds, weight, -1.0))
    return given + (behind < count - given.sum(dim=-1, keepdim=True))
