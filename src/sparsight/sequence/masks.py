"""Masks, positions and rotary tables of a shortened sequence.

Tokens are stored in the order of the prompt, with padding in front of shorter rows. So the mask of
a causal model is causal in the stored order, and hides the entries that are not valid. If all
entries are valid, a pass of one token or without a past needs no mask at all, and the kernel keeps
its fast path. Masks of sliding windows and bidirectional blocks are not built anew: rows and
columns of the model's own mask are taken. A bias of attention logits makes any mask one that is
added to them.
"""

import torch


def causal_mask(
    valid: torch.Tensor | None,
    queries: int,
    keys: int,
    dtype: torch.dtype | None,
    device: torch.device,
) -> torch.Tensor | None:
    """Return the causal mask of the last `queries` of `keys` stored tokens.

    Args:
        valid: (B, keys) bool; None if all keys are valid.
        queries: how many tokens attend.
        keys: how many tokens are stored, those that attend included.
        dtype: None for a bool mask (True: allowed), a float dtype for one that is added to scores.
        device: of the mask.
    Returns: (B or 1, 1, queries, keys); None where the kernel makes the same mask by itself.
    """
    # a kernel that is given float masks, as eager is, makes no causal mask by itself
    if valid is None and (queries == 1 or (queries == keys and dtype is None)):
        return None
    columns = torch.arange(keys, device=device)
    rows = columns[keys - queries :, None]
    allowed = (columns <= rows)[None]  # (1, queries, keys)
    if valid is not None:
        # an invalid token sees itself, so that no row of the softmax is empty; no other sees it
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
    """Return the index of each of the last `queries` tokens among the valid tokens of its row.

    Args:
        valid: (B, keys) bool; None if all tokens are valid.
        queries: how many tokens get a position.
        keys: how many tokens there are.
        device: of the positions.
    Returns: (B or 1, queries) int64.
    """
    if valid is None:
        return torch.arange(keys - queries, keys, device=device)[None]
    return (valid.long().cumsum(dim=-1) - 1).clamp_min(0)[:, keys - queries :]


def gather_mask(
    mask: torch.Tensor, rows: torch.Tensor | None, columns: torch.Tensor, valid: torch.Tensor | None
) -> torch.Tensor:
    """Return some rows and columns of the mask that a model made for the unpruned sequence.

    Args:
        mask: (1 or B, 1 or H, L, C) bool (True: allowed) or float (added to scores).
        rows: (B, n) int64, rows of the queries that are left; None if all L are.
        columns: (1 or B, keys) int64, column of each key. A key outside 0..C-1 has left the sliding
            window of the mask, and no query sees it.
        valid: (B, keys) bool; None if all keys are valid.
    Returns: (B, 1 or H, n, keys), dtype of `mask`.
    """
    # any of the four may be one row that holds for the whole batch
    sizes = [len(part) for part in (mask, columns, rows, valid) if part is not None]
    mask = mask.expand(max(sizes), -1, -1, -1)
    if rows is not None:  # (B, 1 or H, n, C)
        mask = mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))
    seen = (columns >= 0) & (columns < mask.shape[3])
    seen = (seen if valid is None else seen & valid)[:, None, None]  # (1 or B, 1, 1, keys)
    # keys outside read some column, and `seen` hides them
    inside = columns.clamp(0, mask.shape[3] - 1)[:, None, None]
    mask = mask.gather(3, inside.expand(*mask.shape[:3], -1))  # (B, 1 or H, n, keys)
    sees_itself = None if valid is None else _let_invalid_see_itself(valid, mask.shape[2])
    if mask.dtype == torch.bool:
        mask = mask & seen
        return mask if sees_itself is None else mask | sees_itself
    mask = mask.masked_fill(~seen, torch.finfo(mask.dtype).min)
    return mask if sees_itself is None else mask.masked_fill(sees_itself, 0.0)


def open_mask(valid: torch.Tensor, queries: int) -> torch.Tensor:
    """Return the mask of a bidirectional layer, (B, 1, queries, keys) bool.

    Args:
        valid: (B, keys) bool.
        queries: how many tokens attend, the last ones of the keys.
    """
    return valid[:, None, None, :] | _let_invalid_see_itself(valid, queries)


def _let_invalid_see_itself(valid: torch.Tensor, queries: int) -> torch.Tensor:
    """Return a mask that allows each invalid token to see itself alone, (B, 1, queries, keys) bool.

    Without it, the row of an invalid token would be empty, and its softmax not a number.
    """
    columns = torch.arange(valid.shape[1], device=valid.device)
    return ((columns == columns[-queries:, None]) & ~valid[:, None, :])[:, None]


def add_bias(mask: torch.Tensor | None, bias: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a mask that adds a bias to the scores that it allows.

    Args:
        mask: (1 or B, 1 or H, n, keys) bool (True: allowed) or float; None if it allows all.
        bias: (1 or B, 1, 1 or n, keys) float.
        dtype: of the answer.
    Returns: (1 or B, 1 or H, 1 or n, keys).
    """
    if mask is None:
        return bias.to(dtype)
    if mask.dtype == torch.bool:
        return torch.where(mask, bias.to(dtype), torch.finfo(dtype).min)
    return (mask + bias).to(dtype)


def gather_rotary(table: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Return the rows of a rotary table for the tokens that are left.

    Args:
        table: (..., 1 or B, L, d); M-RoPE may have its three axes as dimensions in front.
        order: (B, n) int64 slots.
    Returns: (..., B, n, d).
    """
    order = order.to(table.device)
    front, width = table.shape[:-3], table.shape[-1]
    table = table.expand(*front, len(order), -1, -1)
    return table.gather(-2, order[..., None].expand(*front, -1, -1, width))
