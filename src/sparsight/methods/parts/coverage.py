"""Choosers by coverage: every token wants to be like a chosen one (facility location).

Gains are kept up to date instead of being summed anew: after a choice only those rows change that
the choice covers better than before. That gives the same tokens and costs about 4 N^2 in all,
whatever the count.
"""

from typing import Literal

import torch

from sparsight.methods.parts.geometry import Similarity
from sparsight.methods.parts.tensors import check_count, widest

Scale = Literal["mean", "min-max"]

ALL_AT_ONCE = 2**24  # entries up to which a GPU works on every row, rather than wait for a count
IN_CACHE = 2**18  # entries of the rows that a CPU works on at once


class Gains:
    """What each token would still add to the coverage of all rows.

    Attributes:
        gain: (..., N), sum over rows i of demand_i max(0, S_ij - best_i), brought up to date.
        best: (..., M), how well each row is covered.
    Both are float64, which lets what was added be taken away again; float32 on Apple's GPUs.

    Args:
        similarity: (..., M, N), rows to be covered by columns.
        demand: (..., M) float >= 0, or None for 1.
        floor: how well rows are covered before anything is chosen.
    """

    def __init__(
        self, similarity: Similarity, demand: torch.Tensor | None = None, floor: float = 0.0
    ) -> None:
        self._similarity = similarity
        first, *later = (self._sum_block(demand, floor, *block) for block in similarity.blocks())
        self.gain = first
        for part in later:
            self.gain = self.gain + part
        rows = similarity.shape[:-1]
        self.best = self.gain.new_full(rows, floor)
        self._demand = self.gain.new_ones(rows) if demand is None else demand.to(self.gain.dtype)
        # what is left of a gain that was spent, by rounding alone
        self._dust = self.gain.amax(dim=-1, keepdim=True) * 4096 * torch.finfo(self.gain.dtype).eps

    @staticmethod
    def _sum_block(
        demand: torch.Tensor | None, floor: float, first: int, block: torch.Tensor
    ) -> torch.Tensor:
        over = (block.to(widest(block.device)) - floor).clamp_min(0)
        if demand is not None:
            over = over * demand[..., first : first + over.shape[-2], None]
        return over.sum(dim=-2)

    def measure(self) -> torch.Tensor:
        """Return the gains (..., N), those that are spent but for rounding as 0."""
        return torch.where(self.gain > self._dust, self.gain, 0.0)

    def take(self, index: torch.Tensor) -> None:
        """Bring the gains up to date after the choice of the columns (...) int64."""
        covered = self._similarity.columns(index[..., None])[..., 0].to(self.best.dtype)  # (..., M)
        rise = covered - self.best
        changed = torch.sort(rise, dim=-1, descending=True).indices[..., : self._count(rise)]
        better = torch.maximum(self.best, covered)
        on_host = rise.device.type == "cpu"
        step = max(1, (IN_CACHE if on_host else ALL_AT_ONCE) // self.gain.shape[-1])
        for first in range(0, changed.shape[-1], step):
            rows = changed[..., first : first + step]
            alike = self._similarity.rows(rows).to(self.best.dtype)  # (..., R, N)
            before, after = (best.gather(-1, rows)[..., None] for best in (self.best, better))
            lost = (alike - before).clamp_min_(0) - (alike - after).clamp_min_(0)
            demand = self._demand.gather(-1, rows)
            self.gain = self.gain - (demand[..., None, :] @ lost)[..., 0, :]
        self.best = better

    def _count(self, rise: torch.Tensor) -> int:
        """Return how many rows change in the sample where most do; in others, zeros fill up."""
        if rise.device.type != "cpu" and self._similarity.shape[-2:].numel() <= ALL_AT_ONCE:
            return rise.shape[-1]
        return int((rise > 0).sum(dim=-1).amax())


def choose_coverage(
    similarity: Similarity,
    count: int,
    *,
    demand: torch.Tensor | None = None,
    factor: torch.Tensor | None = None,
    floor: float = 0.0,
    allowed: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return tokens in the order of choice, each adding most to the coverage of all rows.

    Source: SCOPE (arXiv 2510.24214) with a factor, EADP (arXiv 2607.02484) with demands, MMTok
    (arXiv 2508.18264) with rows of words and tokens.
    Differs: gains are brought up to date instead of summed anew, in float64; the tokens are the
    same, except where rounding decides.

    Args:
        similarity: (..., M, N), rows to be covered by columns.
        count: K in 1..N.
        demand: (..., M) float >= 0, how much each row counts; None for 1.
        factor: (..., N) float >= 0 by which a token's gain is multiplied; None for 1.
        floor: how well rows are covered before anything is chosen.
        allowed: (..., N) bool, at least K True, tokens that may be chosen; None for all.
    Returns: (..., K) int64; of equal gains the first is chosen.
    """
    check_count(count, similarity.shape[-1])
    gains, chosen = Gains(similarity, demand, floor), []
    taken = torch.zeros_like(gains.gain, dtype=torch.bool)
    if allowed is not None:
        taken = taken | ~allowed
    for step in range(count):
        worth = gains.measure() if factor is None else gains.measure() * factor
        index = worth.masked_fill(taken, float("-inf")).argmax(dim=-1)
        chosen.append(index)
        taken = taken.scatter(-1, index[..., None], True)
        if step < count - 1:
            gains.take(index)
    return torch.stack(chosen, dim=-1)


def choose_tops(
    relevance: torch.Tensor,
    similarity: Similarity,
    count: int,
    *,
    alpha: float = 0.5,
    coverage_weight: float = 0.5,
    scale: Scale = "mean",
) -> torch.Tensor:
    """Return tokens in the order of choice, by relevance plus diversity plus coverage.

    Each is scaled over the tokens that are free at a step; only free tokens want to be covered. The
    first token is the most relevant one.

    Source: TOPS (arXiv 2606.27161), algorithm 1; its text scales by min-max instead of the mean.
    Differs: gains are brought up to date instead of summed anew, as in `choose_coverage`.

    Args:
        relevance: (..., N) float >= 0.
        similarity: (..., N, N), cosines.
        count: K in 1..N.
        alpha: weight of the diversity.
        coverage_weight: weight of the coverage, lambda in the paper.
        scale: "mean" divides by the mean of the free tokens, "min-max" stretches them to 0..1.
    Returns: (..., K) int64; of equal sums the first is chosen.
    """
    check_count(count, similarity.shape[-1])
    gains = Gains(similarity, floor=-1.0)
    relevance = relevance.to(gains.gain.dtype)
    taken = torch.zeros_like(relevance, dtype=torch.bool)
    index = relevance.argmax(dim=-1)
    chosen = [index]
    for _ in range(count - 1):
        taken = taken.scatter(-1, index[..., None], True)
        gains.take(index)  # a token covers itself wholly, so that its row asks for no more
        worth = _scale_free(relevance, taken, scale)
        worth = worth + alpha * _scale_free(1 - gains.best, taken, scale)
        worth = worth + coverage_weight * _scale_free(gains.measure(), taken, scale)
        index = worth.masked_fill(taken, float("-inf")).argmax(dim=-1)
        chosen.append(index)
    return torch.stack(chosen, dim=-1)


def _scale_free(values: torch.Tensor, taken: torch.Tensor, scale: Scale) -> torch.Tensor:
    if scale == "mean":
        total = values.masked_fill(taken, 0).sum(dim=-1, keepdim=True)
        mean = total / (~taken).sum(dim=-1, keepdim=True)
        return torch.where(mean == 0, 0.0, values / torch.where(mean == 0, 1.0, mean))
    low = values.masked_fill(taken, float("inf")).amin(dim=-1, keepdim=True)
    reach = values.masked_fill(taken, float("-inf")).amax(dim=-1, keepdim=True) - low
    return torch.where(reach == 0, 0.0, (values - low) / torch.where(reach == 0, 1.0, reach))
