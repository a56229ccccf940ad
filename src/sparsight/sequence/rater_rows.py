"""Reads the attention that raters pay to visual tokens out of one attention call.

A rater is a text token whose attention rates the visual tokens. Only the rows of raters are
computed, never the whole L x L map. This module knows tensors only, no module of any model.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

CHUNK_BYTES = 64 * 2**20  # bytes of float32 probabilities that are computed at a time


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """The arguments of one attention call of one layer, as the kernel gets them.

    Args:
        query: (B, H, N, d), rotary positions applied.
        key: (B, H_kv, N_k, d), rotary positions applied, entries of the cache included.
        mask: (B or 1, 1 or H, N, N_k) bool (True: allowed) or float (added to scores); or None.
        scaling: factor on the products of queries and keys.
        softcap: bound c of the scaled products x, which become c tanh(x / c); None for none.
        causal: what a mask of None means: True for a causal mask, False for no mask.
    """

    query: torch.Tensor
    key: torch.Tensor
    mask: torch.Tensor | None
    scaling: float
    softcap: float | None
    causal: bool = True


@dataclass(frozen=True, eq=False)
class RaterRows:
    """Post-softmax attention of raters to visual tokens, for a group of samples.

    It is computed when it is asked for, in chunks of raters.

    Source: SparseVLM eq. 6 and 7; the softmax runs over all keys that a rater may see and is not
    renormalised over the visual tokens.

    Args:
        call: the attention call.
        samples: (G,) int64, indices of the samples in the batch; None for the whole batch.
        rater_rows: (G, R) int64, query index of each rater.
        columns: (G, V) int64, key index of each visual token.
        present: (G, R) bool, False where a sample with fewer raters than R repeats one, which does
            not count; None if all count.
    """

    call: AttentionCall
    samples: torch.Tensor | None
    rater_rows: torch.Tensor
    columns: torch.Tensor
    present: torch.Tensor | None = None

    def mean(self) -> torch.Tensor:
        """Return the mean over heads and raters, (G, V), float32 or wider."""
        by_rater = self.mean_over_heads()  # (G, R, V)
        if self.present is None:
            return by_rater.mean(dim=1)
        return by_rater.sum(dim=1) / self.present.sum(dim=1)[:, None]

    def mean_over_heads(self) -> torch.Tensor:
        """Return the mean over heads, (G, R, V), float32 or wider; raters not counted are 0."""
        by_rater = torch.cat([part.mean(dim=1) for part, _ in self._compute_chunks()], dim=1)
        if self.present is None:
            return by_rater
        return by_rater.masked_fill(~self.present[..., None], 0.0)

    def mean_over_raters(self, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Return the mean over raters, (G, H, V), float32 or wider.

        Args: weight: (G, R, V), by which each probability is multiplied first; None for no weight.
        """
        total: torch.Tensor | None = None
        for part, raters in self._compute_chunks():  # part: (G, H, r, V)
            weighted = part if weight is None else part * weight[:, None, raters]
            if self.present is not None:
                weighted = weighted * self.present[:, None, raters, None]
            summed = weighted.sum(dim=2)
            total = summed if total is None else total + summed
        if total is None:
            raise ValueError("no rater rows to average")
        if self.present is None:
            return total / self.rater_rows.shape[1]
        return total / self.present.sum(dim=1)[:, None, None]

    def _compute_chunks(self) -> Iterator[tuple[torch.Tensor, slice]]:
        """Yield the probabilities (G, H, r, V) of some raters, and which raters these are."""
        query, key = self._take(self.call.query), self._take(self.call.key)
        wide = torch.promote_types(query.dtype, torch.float32)
        group, heads = query.shape[:2]
        key = key.to(wide)[:, :, None].transpose(-1, -2)  # (G, H_kv, 1, d, N_k)
        # as many raters at a time as fit into CHUNK_BYTES, each with all heads and keys
        step = max(1, CHUNK_BYTES // (4 * group * heads * key.shape[-1]))
        raters = self.rater_rows.shape[1]
        for start in range(0, raters, step):
            chunk = slice(start, min(start + step, raters))
            rows = self.rater_rows[:, chunk]  # (G, r)
            index = rows[:, None, :, None].expand(-1, heads, -1, query.shape[-1])
            probabilities = self._attend(query.gather(2, index).to(wide), key, rows)
            columns = self.columns[:, None, None].expand(-1, heads, rows.shape[1], -1)
            yield probabilities.gather(3, columns), chunk

    def _take(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the group's rows of a tensor (B, ...)."""
        return tensor if self.samples is None else tensor[self.samples]

    def _attend(self, query: torch.Tensor, key: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of some raters over all keys, (G, H, r, N_k).

        Args:
            query: (G, H, r, d).
            key: (G, H_kv, 1, d, N_k); H / H_kv query heads share a key head.
            rows: (G, r) int64, query indices of the raters.
        """
        # query heads that share a key head go into one dimension: (G, H_kv, H / H_kv, r, d)
        shared = query.reshape(len(query), key.shape[1], -1, *query.shape[2:])
        logits = (shared @ key).flatten(1, 2) * self.call.scaling  # (G, H, r, N_k)
        if self.call.softcap is not None:
            logits = torch.tanh(logits / self.call.softcap) * self.call.softcap
        return self._mask(logits, rows).softmax(dim=-1)

    def _mask(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the masked logits (G, H, r, N_k) of the raters in `rows` (G, r)."""
        call, mask = self.call, self.call.mask
        if mask is None and not call.causal:
            return logits
        if mask is None:  # causal; the keys of the cache stand in front of those of this pass
            past = call.key.shape[2] - call.query.shape[2]
            columns = torch.arange(call.key.shape[2], device=rows.device)
            return logits.masked_fill(columns > rows[:, None, :, None] + past, float("-inf"))
        mask = (self._take(mask) if mask.shape[0] > 1 else mask).expand(len(rows), -1, -1, -1)
        index = rows[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3])
        mask = mask.gather(2, index)  # (G, 1 or H, r, N_k)
        if mask.dtype == torch.bool:
            return logits.masked_fill(~mask, float("-inf"))
        return logits + mask.to(logits.dtype)
