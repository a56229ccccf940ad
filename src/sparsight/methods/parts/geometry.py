"""How alike tokens are: cosines of tokens as they are, centred, standardised, or residuals.

A geometry gives rows of a similarity matrix on demand, so that no N x N matrix need exist.
Residuals come from `words`. Leading dimensions are a batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from sparsight.methods.parts.tensors import measure_length, normalise, take, widen

BLOCK = 1024  # rows of a similarity matrix that exist at once
HELD = 4096  # tokens up to which a whole similarity matrix may be held


class Similarity(Protocol):
    """A matrix (..., M, N) of which only the rows asked for need exist."""

    @property
    def shape(self) -> torch.Size:
        """Return (..., M, N)."""

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        """Return (..., R, N), the rows with the indices (..., R) int64."""

    def columns(self, index: torch.Tensor) -> torch.Tensor:
        """Return (..., M, R), the columns with the indices (..., R) int64."""

    def pairs(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Return (..., R, C), the entries of rows (..., R) at columns (..., C), int64 both."""

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Return the first row's index and (..., R, N) of one block of rows after the other."""

    def hold(self) -> "Similarity":
        """Return a whole matrix where it is small enough to be held, else this one."""


@dataclass(frozen=True)
class Cosines:
    """Cosines of all pairs of N tokens, made on demand.

    Args: units: (..., N, D) float, rows of length 1.
    """

    units: torch.Tensor

    @property
    def shape(self) -> torch.Size:
        """Return (..., N, N)."""
        count = self.units.shape[-2]
        return torch.Size((*self.units.shape[:-2], count, count))

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        """Return (..., R, N), the cosines of the tokens (..., R) int64 to all."""
        return take(self.units, index) @ self.units.transpose(-1, -2)

    def columns(self, index: torch.Tensor) -> torch.Tensor:
        """Return (..., N, R), the cosines of all to the tokens (..., R) int64."""
        return self.rows(index).transpose(-1, -2)

    def pairs(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Return (..., R, C), the cosines of tokens (..., R) to tokens (..., C), int64 both."""
        return take(self.units, rows) @ take(self.units, columns).transpose(-1, -2)

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Return the first token's index and (..., R, N) of one block of rows after the other."""
        for first in range(0, self.units.shape[-2], BLOCK):
            block = self.units[..., first : first + BLOCK, :]
            yield first, block @ self.units.transpose(-1, -2)

    def hold(self) -> Similarity:
        """Return the whole matrix for up to 4,096 tokens, else this one."""
        if self.units.shape[-2] > HELD:
            return self
        return Matrix(self.units @ self.units.transpose(-1, -2))


@dataclass(frozen=True)
class Matrix:
    """A similarity matrix that exists as a whole; it need not be square.

    Args: values: (..., M, N) float.
    """

    values: torch.Tensor

    @property
    def shape(self) -> torch.Size:
        """Return (..., M, N)."""
        return self.values.shape

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        """Return (..., R, N), the rows with the indices (..., R) int64."""
        return take(self.values, index)

    def columns(self, index: torch.Tensor) -> torch.Tensor:
        """Return (..., M, R), the columns with the indices (..., R) int64."""
        return take(self.values.transpose(-1, -2), index).transpose(-1, -2)

    def pairs(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Return (..., R, C), the entries of rows (..., R) at columns (..., C), int64 both."""
        chosen = take(self.values, rows)
        return chosen.gather(-1, columns[..., None, :].expand(*chosen.shape[:-1], -1))

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Return the first row's index and (..., R, N) of one block of rows after the other."""
        for first in range(0, self.values.shape[-2], BLOCK):
            yield first, self.values[..., first : first + BLOCK, :]

    def hold(self) -> Similarity:
        """Return this matrix."""
        return self


def compare(points: torch.Tensor) -> Cosines:
    """Return the cosines of tokens (..., N, D) as they are."""
    return Cosines(normalise(points))


def compare_centred(points: torch.Tensor) -> Cosines:
    """Return the cosines of tokens (..., N, D) from which the mean token of their sample was taken.

    Source: Cen-Prune (arXiv 2608.30263): what all tokens of an image share makes raw cosines alike.
    """
    wide = widen(points)
    centred = wide - wide.mean(dim=-2, keepdim=True)
    length = measure_length(centred)  # whose gradient needs its input as it was
    return Cosines(centred / length if centred.requires_grad else centred.div_(length))


def standardise(points: torch.Tensor, epsilon: float = 1e-6) -> torch.Tensor:
    """Return tokens (..., N, D), each channel divided by its standard deviation over the tokens.

    Source: Cen-Prune, for encoders such as Qwen's, where one channel holds nearly all variance. It
    belongs before the encoder's merger, on the mean of the patches of a merged token.
    Differs: epsilon, which the text does not give, is added to the variance.
    """
    wide = widen(points)
    variance = wide.var(dim=-2, keepdim=True, correction=0)
    return wide / (variance + epsilon).sqrt()


def find_most_isolated(similarity: Similarity) -> torch.Tensor:
    """Return the token of each sample whose nearest neighbour is farthest; of equal ones the first.

    Source: DivPrune's start.

    Args: similarity: (..., N, N).
    Returns: (...) int64.
    """
    nearest = []
    for first, block in similarity.blocks():
        rows = torch.arange(block.shape[-2], device=block.device)
        itself = torch.arange(block.shape[-1], device=block.device) == (rows + first)[:, None]
        nearest.append(block.masked_fill(itself, float("-inf")).amax(dim=-1))
    return torch.cat(nearest, dim=-1).argmin(dim=-1)
