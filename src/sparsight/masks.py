"""Masks and positions of a shortened sequence.

Kept tokens stand in the order in which they may see each other, fillers stand in front; so every mask here is causal
in the stored order, less the entries that are not valid. Where nothing is invalid, a pass of one token or without a
past needs no mask at all, and the fast kernels stay on.
"""

import torch


def causal_mask(
    valid: torch.Tensor | None, queries: int, keys: int, dtype: torch.dtype | None, device: torch.device
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
    return torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill(~allowed, torch.finfo(dtype).min)


def contiguous_positions(valid: torch.Tensor | None, queries: int, keys: int, device: torch.device) -> torch.Tensor:
    """Number the valid tokens from 0 and return the numbers of the last `queries`.

    Returns: (B or 1, queries) int64.
    """
    if valid is None:
        return torch.arange(keys - queries, keys, device=device)[None]
    return (valid.long().cumsum(dim=-1) - 1).clamp_min(0)[:, keys - queries :]


def gather_rotary(table: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Take rows of a rotary table.

    Args:
        table: (1 or B, L, d).
        order: (B, n) int64.
    Returns: (B, n, d).
    """
    table = table.expand(len(order), -1, -1)
    return table.gather(1, order[..., None].expand(-1, -1, table.shape[-1]))
