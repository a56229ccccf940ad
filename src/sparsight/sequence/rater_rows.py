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
    """Post-softmax attention of rater rows to visual columns, for samples alike, in chunks of raters.

    Source: SparseVLM eq. 6 and 7; the softmax runs over all keys a rater may see and is not
    renormalised.

    Args:
        call: whose rows.
        samples: (G,) int64, their places in the batch; None for the whole batch.
        rater_rows: (G, R) int64 query indices.
        columns: (G, V) int64 key indices.
        present: (G, R) bool, False where a row fills up a sample with fewer raters; None if none
            does.
    """

    call: AttentionCall
    samples: torch.Tensor | None
    rater_rows: torch.Tensor
    columns: torch.Tensor
    present: torch.Tensor | None = None

    def mean(self) -> torch.Tensor:
        """Return (G, V), float32 or wider: the mean over heads and raters."""
        found = self.mean_over_heads()
        if self.present is None:
            return found.mean(dim=1)
        return found.sum(dim=1) / self.present.sum(dim=1)[:, None]

    def mean_over_heads(self) -> torch.Tensor:
        """Return (G, R, V), float32 or wider; rows that fill up are 0."""
        found = torch.cat([part.mean(dim=1) for part, _ in self._chunks()], dim=1)
        return found if self.present is None else found.masked_fill(~self.present[..., None], 0.0)

    def mean_over_raters(self, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Return (G, H, V), float32 or wider; probabilities are multiplied by `weight` (G, R, V) first."""
        total: torch.Tensor | None = None
        for part, where in self._chunks():  # part: (G, H, r, V)
            weighed = part if weight is None else part * weight[:, None, where]
            if self.present is not None:
                weighed = weighed * self.present[:, None, where, None]
            summed = weighed.sum(dim=2)
            total = summed if total is None else total + summed
        if total is None:
            raise ValueError("no rater rows to average")
        if self.present is None:
            return total / self.rater_rows.shape[1]
        return total / self.present.sum(dim=1)[:, None, None]

    def _chunks(self) -> Iterator[tuple[torch.Tensor, slice]]:
        """Yield (G, H, r, V) probabilities and the raters they are of."""
        query, key = self._take(self.call.query), self._take(self.call.key)
        wide, columns = torch.promote_types(query.dtype, torch.float32), self.columns[:, None, None]
        group, heads, keys = query.shape[0], query.shape[1], key.shape[2]
        key = key.to(wide)[:, :, None].transpose(-1, -2)  # (G, H_kv, 1, d, N_k)
        step, raters = max(1, CHUNK_BYTES // (4 * group * heads * keys)), self.rater_rows.shape[1]
        for start in range(0, raters, step):
            where = slice(start, min(start + step, raters))
            rows = self.rater_rows[:, where]
            asked = rows[:, None, :, None].expand(-1, heads, -1, query.shape[-1])
            found = self._probabilities(query.gather(2, asked).to(wide), key, rows)
            yield found.gather(3, columns.expand(-1, heads, found.shape[2], -1)), where

    def _take(self, part: torch.Tensor) -> torch.Tensor:
        return part if self.samples is None else part[self.samples]

    def _probabilities(
        self, query: torch.Tensor, key: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        """Return (G, H, r, N_k) for queries (G, H, r, d) and keys (G, H_kv, 1, d, N_k)."""
        grouped = query.reshape(
            len(query), key.shape[1], -1, *query.shape[2:]
        )  # (G, H_kv, H / H_kv, r, d)
        logits = (grouped @ key).flatten(1, 2) * self.call.scaling
        if self.call.softcap is not None:
            logits = torch.tanh(logits / self.call.softcap) * self.call.softcap
        return self._masked(logits, rows).softmax(dim=-1)

    def _masked(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        call, mask = self.call, self.call.mask
        if mask is None and not call.causal:
            return logits
        if mask is None:
            past = call.key.shape[2] - call.query.shape[2]
            columns = torch.arange(call.key.shape[2], device=rows.device)
            return logits.masked_fill(columns > rows[:, None, :, None] + past, float("-inf"))
        mask = (self._take(mask) if mask.shape[0] > 1 else mask).expand(len(rows), -1, -1, -1)
        asked = rows[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3])
        mask = mask.gather(2, asked)  # (G, 1 or H, r, N_k)
        if mask.dtype == torch.bool:
            return logits.masked_fill(~mask, float("-inf"))
        return logits + mask.to(logits.dtype)
