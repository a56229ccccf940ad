"""Masks and positions of a shortened sequence.

Kept tokens stand in the order in which they may see each other, fillers stand in front; so where a
model is causal, a mask is causal in the stored order, less the entries that are not valid. Where
nothing is invalid, a pass of one token or without a past needs no mask at all, and the fast kernels
stay on. Sliding windows and blocks that see each other both ways are not built again: rows and
columns of the model's own mask are taken.
"""

import torch


def causal_mask(
    valid: torch.Tensor | None,
    queries: int,
    keys: int,
    dtype: torch.dtype | None,
    device: torch.device,
) -> torch.Tensor | None:
    """Build the mask of the last `queries` of `keys` stored tokens.

    Args:
        valid: (B, keys) bool, or None if all are.
        dtype: None for a bool mask (True: allowed), a float dtype for an added one.
    Returns: (B or 1, 1, queries, keys), or None where plain causality says it all.
    """
    # a kernel that takes added masks knows no causality of its own
    if valid is None and (queries == 1 or (queries == keys and dtype is None)):
        return None
    columns = torch.arange(keys, device=device)
    rows = columns[keys - queries :, None]
    allowed = (columns <= rows)[None]  # (1, queries, keys)
    if valid is not None:
        # an invalid token sees itself, so that no row of the softmax is empty; nobody else sees it
        allowed = allowed & (valid[:, None, :] | (columns == rows))
    allowed = allowed[:, None]
    if dtype is None:
        return allowed
    return torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill(
        ~allowed, torch.finfo(dtype).min
    )


def contiguous_positions(
    valid: torch.Tensor | None, queries: int, keys: int, device: torch.device
) -> torch.Tensor:
    """Number the valid tokens from 0 and return the numbers of the last `queries`.

    Returns: (B or 1, queries) int64.
    """
    if valid is None:
        return torch.arange(keys - queries, keys, device=device)[None]
    return (valid.long().cumsum(dim=-1) - 1).clamp_min(0)[:, keys - queries :]


def gather_mask(
    mask: torch.Tensor, rows: torch.Tensor | None, columns: torch.Tensor, valid: torch.Tensor | None
) -> torch.Tensor:
    """Take rows and columns of a mask that a model made for the unpruned sequence.

    Args:
        mask: (1 or B, 1 or H, L, C) bool (True: allowed) or float (added).
        rows: (B, n) int64 queries that are left, or None if all are.
        columns: (1 or B, keys) int64 in the mask's columns; those outside are too far away to be
            seen.
        valid: (B, keys) bool, or None if all are.
    Returns: (B, 1 or H, n, keys), dtype of `mask`.
    """
    size = max(
        len(mask),
        len(columns),
        1 if rows is None else len(rows),
        1 if valid is None else len(valid),
    )
    mask = mask.expand(size, -1, -1, -1)
    if rows is not None:
        mask = mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))
    seen = (columns >= 0) & (columns < mask.shape[3])
    seen = (seen if valid is None else seen & valid)[:, None, None]  # (1 or B, 1, 1, keys)
    inside = columns.clamp(0, mask.shape[3] - 1)[:, None, None]
    mask = mask.gather(3, inside.expand(size, mask.shape[1], mask.shape[2], -1))
    own = None if valid is None else _own(valid, mask.shape[2])
    if mask.dtype == torch.bool:
        return mask & seen if own is None else (mask & seen) | own
    mask = mask.masked_fill(~seen, torch.finfo(mask.dtype).min)
    return mask if own is None else mask.masked_fill(own, 0.0)


def open_mask(valid: torch.Tensor, queries: int) -> torch.Tensor:
    """Return the mask of tokens that see each other both ways: (B, 1, queries, keys) bool.

    Args: valid: (B, keys) bool.
    """
    return valid[:, None, None, :] | _own(valid, queries)


def _own(valid: torch.Tensor, queries: int) -> torch.Tensor:
    """(B, 1, queries, keys) bool: an invalid token sees itself, so that no row of the softmax is empty."""
    columns = torch.arange(valid.shape[1], device=valid.device)
    return ((columns == columns[-queries:, None]) & ~valid[:, None, :])[:, None]


def gather_rotary(table: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Take rows of a rotary table.

    Args:
        table: (..., 1 or B, L, d), whatever stands in front: M-RoPE may keep its three axes there.
        order: (B, n) int64.
    Returns: (..., B, n, d).
    """
    front, width, order = table.shape[:-3], table.shape[-1], order.to(table.device)
    table = table.expand(*front, len(order), -1, -1)
    return table.gather(-2, order[..., None].expand(*front, -1, -1, width))
