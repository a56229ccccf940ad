"""Tensors in few bits: codes side by side in bytes, and one scale for every 64 values."""

from __future__ import annotations

import numpy as np
import torch

GROUP = 64  # values with one scale


def pack_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Return codes side by side in bytes, the highest bit of each first.

    Args:
        codes: (n,) uint8 in [0, 2 ** bits).
        bits: of each code, 1 to 8.
    """
    lowest = np.unpackbits(codes[:, None], axis=1)[:, 8 - bits :]
    return np.packbits(lowest.ravel())


def unpack_codes(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Return the first `count` codes of packed bytes, (count,) uint8."""
    lowest = np.unpackbits(packed, count=count * bits).reshape(count, bits)
    padded = np.zeros((count, 8), np.uint8)
    padded[:, 8 - bits :] = lowest
    return np.packbits(padded, axis=1).ravel()


def unpack(
    codes: torch.Tensor, scales: torch.Tensor, shape: tuple[int, ...], bits: int
) -> torch.Tensor:
    """Return the values of a packed tensor, float32; codes stand for odd multiples of half a scale.

    Args:
        codes: (bytes,) uint8.
        scales: (values / 64,) float16.
        shape: of the result.
        bits: of a code.
    """
    numbers = unpack_codes(codes.numpy(), bits, scales.numel() * GROUP)
    values = torch.from_numpy(numbers).float() - (2**bits - 1) / 2
    scaled: torch.Tensor = values.view(-1, GROUP) * scales.float()[:, None]
    return scaled.reshape(shape)
