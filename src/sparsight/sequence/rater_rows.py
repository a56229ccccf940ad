"""Scores from one attention call: the rows of the raters are multiplied out, never the whole map. Knows no module."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

CHUNK_BYTES = 64 * 2**20  # of float32 probabilities at a time


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One attention call of one layer, as the kernel saw it.

    Args:
        query: (B, H, N, d), positions already applied.
        key: (B, H_kv, N_k, d), cache included.
        mask: None, or (B or 1, 1 or H, N, N_k) bool (True: allowed) or float (added).
        scaling: factor on the products.
        softcap: tanh cap on the scaled products, or None.
        causal: whether no mask means causal; otherwise every token then sees every other.
    """

    query: torch.Tensor
    key: torch.Tensor
    mask: torch.Tensor | None
    scaling: float
    softcap: float | None
    causal: bool = True


@dataclass(frozen=True, eq=False)
class RaterRows:
    """Post-softmax attention of rater rows to visual columns, multiplied out in chunks of raters.

    Source: SparseVLM eq. 6 and 7; the softmax runs over all keys a rater may see and is not renormalised.

    Args:
        rater_rows: (R,) int64 query indices.
        columns: (V,) int64 key indices.
    """

    call: AttentionCall
    sample: int
    rater_rows: torch.Tensor
    columns: torch.Tensor

    def mean_over_heads(self) -> torch.Tensor:
        """Return (R, V), float32 or wider."""
        return torch.cat([part.mean(dim=0) for part, _ in self._chunks()])

    def mean_over_raters(self, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Return (H, V), float32 or wider; probabilities are multiplied by `weight` (R, V) first."""
        total: torch.Tensor | None = None
        for part, where in self._chunks():
            summed = (part if weight is None else part * weight[where]).sum(dim=1)
            total = summed if total is None else total + summed
        if total is None:
            raise ValueError("no rater rows to average")
        return total / len(self.rater_rows)

    def _chunks(self) -> Iterator[tuple[torch.Tensor, slice]]:
        """Yield (H, r, V) probabilities and the raters they are of."""
        call = self.call
        heads, keys = call.query.shape[1], call.key.shape[2]
        step = max(1, CHUNK_BYTES // (4 * heads * keys))
        for start in range(0, len(self.rater_rows), step):
            where = slice(start, min(start + step, len(self.rater_rows)))
            yield self._probabilities(self.rater_rows[where])[..., self.columns], where

    def _probabilities(self, rows: torch.Tensor) -> torch.Tensor:
        call, wide = self.call, torch.promote_types(self.call.query.dtype, torch.float32)
        query = call.query[self.sample][:, rows].to(wide)  # (H, r, d)
        key = call.key[self.sample].to(wide)  # (H_kv, N_k, d)
        grouped = query.view(key.shape[0], -1, *query.shape[1:])  # (H_kv, H / H_kv, r, d)
        logits = (grouped @ key[:, None].transpose(-1, -2)).flatten(0, 1) * call.scaling  # (H, r, N_k)
        if call.softcap is not None:
            logits = torch.tanh(logits / call.softcap) * call.softcap
        return self._masked(logits, rows).softmax(dim=-1)

    def _masked(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        call, mask = self.call, self.call.mask
        if mask is None and not call.causal:
            return logits
        if mask is None:
            past = call.key.shape[2] - call.query.shape[2]
            columns = torch.arange(call.key.shape[2], device=rows.device)
            return logits.masked_fill(columns > rows[:, None] + past, float("-inf"))
        mask = mask[self.sample if mask.shape[0] > 1 else 0][:, rows]  # (1 or H, r, N_k)
        if mask.dtype == torch.bool:
            return logits.masked_fill(~mask, float("-inf"))
        return logits + mask.to(logits.dtype)
