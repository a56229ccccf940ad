"""Choosers: which visual tokens to keep, given scores and how alike the tokens are.

Leading dimensions are a batch. A greedy chooser takes K steps and answers with the order of choice;
sort it to keep tokens in raster order. Coverage and shares of groups have files of their own.
"""

from collections.abc import Callable
from itertools import count as count_from
from math import gcd

import torch

from sparsight.methods.parts.geometry import Similarity, find_most_isolated
from sparsight.methods.parts.tensors import check_count, widen

GOLDEN = (5**0.5 - 1) / 2  # of a line: steps of this length, taken round it, leave no long gap


def top_k(score: torch.Tensor, count: int, images: torch.Tensor | None = None) -> torch.Tensor:
    """Return the `count` highest scores' indices, ascending; of equal scores the lower index wins.

    Differs: where `images` is given and `count` allows it, every image keeps its best token, so
    that none disappears.

    Args:
        score: (..., V) float, higher is kept.
        count: tokens to keep, in 1..V.
        images: (..., V) int64 image of each token, ascending from 0 without gaps.
    Returns: (..., count) int64.
    """
    if images is not None:
        score = _raise_best_of_each(score, count, images)
    order = torch.sort(score, dim=-1, descending=True, stable=True).indices
    return order[..., :count].sort(dim=-1).values


def _raise_best_of_each(score: torch.Tensor, count: int, images: torch.Tensor) -> torch.Tensor:
    # images that are gone leave gaps, so the runs are numbered anew
    runs = (images.diff(dim=-1) != 0).long().cumsum(-1)
    images = torch.cat([torch.zeros_like(images[..., :1]), runs], dim=-1)
    total = images[..., -1:] + 1  # a tensor: reading it would wait for the device
    visual = images.shape[-1]
    best = torch.full_like(score, float("-inf")).scatter_reduce(-1, images, score, "amax")
    first = torch.full_like(images, visual)
    index = torch.arange(visual, device=images.device).expand_as(images)
    top = score == best.gather(-1, images)
    first = first.scatter_reduce(-1, images, torch.where(top, index, visual), "amin")
    protected = (index == first.gather(-1, images)) & (total <= count)
    return torch.where(protected, float("inf"), score)


def numerical_rank(matrix: torch.Tensor, tolerance: float | None = None) -> int:
    """Count singular values above `tolerance` times the largest.

    Source: SparseVLM eq. 8 takes the rank of the rater attention and names no threshold.
    Differs: the threshold is max(R, V) times the float32 epsilon unless given, as in numpy and
    torch.

    Args: matrix: (R, V) float.
    """
    relative = (
        max(matrix.shape) * torch.finfo(torch.float32).eps if tolerance is None else tolerance
    )
    singular = torch.linalg.svdvals(matrix.double())
    return int((singular > relative * singular[0]).sum())


def choose_max_min(
    similarity: Similarity,
    count: int,
    weight: torch.Tensor | None = None,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return tokens in the order of choice, each the farthest from all that were chosen before it.

    Source: DivPrune (arXiv 2503.02175), max-min diversity with distance 1 - cosine; Cen-Prune
    multiplies the distance by a weight.

    Args:
        similarity: (..., N, N).
        count: K in 1..N.
        weight: (..., N) float >= 0, or None for 1.
        start: (...) int64, the first token; None for the one whose nearest neighbour is farthest.
    Returns: (..., K) int64; of equally far tokens the first is chosen.
    """
    check_count(count, similarity.shape[-1])
    index = find_most_isolated(similarity) if start is None else start
    row = _row(similarity, index)
    near, taken = torch.full_like(row, float("inf")), torch.zeros_like(row, dtype=torch.bool)
    chosen = [index]
    for _ in range(count - 1):
        near = torch.minimum(near, 1 - _row(similarity, index))
        taken = taken.scatter(-1, index[..., None], True)
        far = near if weight is None else near * weight
        index = far.masked_fill(taken, float("-inf")).argmax(dim=-1)
        chosen.append(index)
    return torch.stack(chosen, dim=-1)


@torch.no_grad()
def choose_determinantal(
    similarity: Similarity,
    count: int,
    quality: torch.Tensor | None = None,
    *,
    blend: float = 1.0,
    start: torch.Tensor | None = None,
    epsilon: float = 1e-6,
) -> torch.Tensor:
    """Return tokens in the order of choice, each adding most to the determinant of the kernel.

    The kernel is S_ij (1 - blend + blend q_i q_j), S the similarity and q the quality.

    Source: CDPruner (arXiv 2506.10967), greedy inference of a determinantal point process by an
    incremental Cholesky factor; the blend is OpenVINO's.
    Differs: once a token would add no more than epsilon, the choice goes on by max-min; without
    that, more tokens than the kernel's rank give NaN and repeated tokens. OpenVINO adds epsilon
    under the square root instead, which leaves a noise as large as epsilon to choose by. Without
    quality all tokens are equally good at first, and rounding would choose; max-min's start is
    taken then. A NaN adds nothing.

    Args:
        similarity: (..., N, N).
        count: K in 1..N.
        quality: (..., N) float >= 0, or None for 1.
        blend: share of the quality in the kernel, in 0..1.
        start: (...) int64, the first token; None for the one of highest quality.
        epsilon: what a token must add at least.
    Returns: (..., K) int64; of equally good tokens the first is chosen.
    """
    check_count(count, similarity.shape[-1])
    if start is None:
        start = find_most_isolated(similarity) if quality is None else quality.argmax(dim=-1)
    row = _row(similarity, start)  # (..., N)
    weight = torch.ones_like(row) if quality is None else _widen_to(quality, row)
    total, index = row.shape[-1], start
    factor = _Factor(weight.reshape(-1, total), count, blend, epsilon)
    for _ in range(count - 1):
        index = factor.add(index.reshape(-1), row.reshape(-1, total)).reshape(start.shape)
        row = _row(similarity, index)
    return factor.close(index.reshape(-1)).reshape(*start.shape, count)


class _Factor:
    """The Cholesky factor of B greedy choices, row by row.

    A step is a few small operations, whose number is what it costs; limits are tensors, because
    torch would make one of a number at each step.

    Args:
        weight: (B, N) quality.
        count: K, tokens that are chosen.
        blend: share of the quality in the kernel.
        epsilon: what a token must add at least.
    """

    def __init__(self, weight: torch.Tensor, count: int, blend: float, epsilon: float) -> None:
        self._weight, self._blend = weight, blend
        self._gain = (1 - blend) + blend * weight * weight  # (B, N), the kernel's diagonal
        self._rows = weight.new_empty(len(weight), count, weight.shape[-1])
        self._nearest = torch.full_like(weight, -1.0)  # highest similarity to a chosen token
        self._chosen: list[torch.Tensor] = []
        self._least, self._zero = weight.new_full((), epsilon), weight.new_zeros(())
        self._below = weight.new_full((), -2.0)

    def add(self, index: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        """Take tokens (B,) whose similarities to all are (B, N), and return the next ones, (B,)."""
        place, step = index[:, None], len(self._chosen)
        self._chosen.append(index)
        kernel = row * (self._weight * self._weight.gather(1, place))
        if self._blend != 1:
            kernel = (1 - self._blend) * row + self._blend * kernel
        if step:
            done = self._rows[:, :step]
            before = done.gather(2, place[:, None].expand(-1, step, -1))  # (B, step, 1)
            kernel = torch.baddbmm(kernel[:, None], before.mT, done, alpha=-1)[:, 0]
        left = self._gain.gather(1, place)
        added = torch.mul(
            kernel,
            torch.where(left > self._least, left.rsqrt(), self._zero),
            out=self._rows[:, step],
        )
        self._gain.addcmul_(added, added, value=-1).scatter_(1, place, float("-inf"))
        # fmax takes no NaN, so that a chosen token stays the last one
        torch.fmax(self._nearest, row, out=self._nearest).scatter_(1, place, float("inf"))
        # a token that adds nothing would be divided by zero: behind all others, by distance
        far = self._below - self._nearest
        return torch.where(self._gain > self._least, self._gain, far).argmax(dim=1)

    def close(self, index: torch.Tensor) -> torch.Tensor:
        """Take the last tokens, (B,), and return all that were taken, (B, K)."""
        return torch.stack([*self._chosen, index], dim=1)


def spread_if_equal(chosen: torch.Tensor, similarity: Similarity) -> torch.Tensor:
    """Return a choice; where all tokens are equal, one that is spread over the image in its place.

    A blank image gives equal tokens where an encoder tells places apart by rotation alone and its
    numbers are short, as of Qwen2-VL in bfloat16. Any of them serve as well, but of equal ones a
    greedy choice takes the first, which are the top rows.

    Args:
        chosen: (..., K) int64, tokens in the order of choice.
        similarity: (..., N, N) of tokens from which their mean was taken. They add up to nothing,
            so that those of the first two to all are one number only where all tokens are equal.
    Returns: (..., K) int64.
    """
    total, count = similarity.shape[-1], chosen.shape[-1]
    rows = similarity.rows(chosen[..., :2]).flatten(-2)
    equal = rows.amin(dim=-1) == rows.amax(dim=-1)
    # without a common divisor no token comes twice
    step = next(s for s in count_from(max(1, round(GOLDEN * total))) if gcd(s, total) == 1)
    spread = (total // 2 + step * torch.arange(count, device=chosen.device)) % total
    return torch.where(equal[..., None], spread, chosen)


def choose_discounted(
    score: torch.Tensor,
    similarity: Similarity,
    count: int,
    discount: Callable[[torch.Tensor], torch.Tensor] = torch.square,
) -> torch.Tensor:
    """Return tokens in the order of choice, where a choice lowers the score of tokens like it.

    Source: SIEVE: after each choice i every score is multiplied by 1 - discount(S_i), with the
    square as discount.
    Differs: after each choice scores are divided by the highest that is left, which changes no
    order. Products of some hundred discounts would fall below the smallest number, and the index
    would choose.

    Args:
        score: (..., N) float >= 0.
        similarity: (..., N, N).
        count: K in 1..N.
        discount: makes a number in 0..1 of a similarity.
    Returns: (..., K) int64; of equal scores the first is chosen.
    """
    check_count(count, similarity.shape[-1])
    score = widen(score)
    taken = torch.zeros_like(score, dtype=torch.bool)
    chosen: list[torch.Tensor] = []
    for _ in range(count):
        best, index = score.masked_fill(taken, float("-inf")).max(dim=-1)
        chosen.append(index)
        taken = taken.scatter(-1, index[..., None], True)
        alike = discount(_row(similarity, index)).clamp(0, 1)
        highest = torch.where(best > 0, best, 1.0)[..., None]  # all that is left may be 0
        score = score / highest * (1 - alike)
    return torch.stack(chosen, dim=-1)


def _widen_to(values: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return values in float32, or in the wider of their own dtype and another's."""
    return values.to(torch.promote_types(widen(values).dtype, other.dtype))


def _row(similarity: Similarity, index: torch.Tensor) -> torch.Tensor:
    return similarity.rows(index[..., None])[..., 0, :]  # (..., N)
