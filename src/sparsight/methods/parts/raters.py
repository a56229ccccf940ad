"""Raters of SparseVLM and SparseVLM+: the text tokens that speak about the images. Tensors only."""

import torch

ROUNDING = 16  # units in the last place within which two shares count as equal


def choose_text_raters(visual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Return which text tokens get more than the mean share of the visual tokens' similarity.

    Source: SparseVLM section 3.2, eq. 4 and 5: softmax over text of H_v H_q^T on raw input
        embeddings, mean over visual tokens.
    Differs: strictly above the mean, as in the code (the paper prints >=), and by more than
        rounding: shares of text tokens that are alike differ in the last bit, by chance of the
        processor. Where none is above the mean, all of them rate (the code divides by zero).

    Args:
        visual: (V, D) input embeddings of the visual tokens.
        text: (T, D) input embeddings of the text behind them.
    Returns: (T,) bool, at least one True.
    """
    shares = measure_shares(visual, text)
    threshold = shares.mean() * (1 + ROUNDING * torch.finfo(shares.dtype).eps)
    chosen = shares > threshold
    return chosen | ~chosen.any()


def measure_shares(visual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Return the mean share of the visual tokens' similarity that each text token gets.

    Args:
        visual: (V, D) raw input embeddings, no norm and no scale.
        text: (T, D).
    Returns: (T,) at least float32; adds up to 1.
    """
    wide = torch.promote_types(visual.dtype, torch.float32)
    similarity = visual.to(wide) @ text.to(wide).T  # (V, T)
    return similarity.softmax(dim=-1).mean(dim=0)
