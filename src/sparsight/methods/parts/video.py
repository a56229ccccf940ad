"""Choices over the frames of a video: what changed since the last frame, and what stands out.

EVS and VidCom2. Leading dimensions are a batch of clips.
"""

import torch

from sparsight.methods.parts.choosers import top_k
from sparsight.methods.parts.tensors import normalise, rank_descending, widen


def count_video(frames: int, size: int, rate: float, least: int) -> int:
    """Return how many tokens of a clip stay: int(frames size (1 - rate)), at least `least`.

    Source: EVS and VidCom2 as vLLM has them, in floating point: 1,120 tokens at rate 0.8 give 223,
    not 224.

    Args:
        frames: T.
        size: tokens of a frame.
        rate: share that goes, in 0..1.
        least: EVS: a frame's tokens; VidCom2: the number of frames.
    """
    return max(least, int(frames * size * (1 - rate)))


def score_change(features: torch.Tensor) -> torch.Tensor:
    """Return how much each token changed since the last frame: 1 - cosine, 255 in the first.

    Source: EVS. `top_k` of it always keeps the whole first frame, if it is given that many.

    Args: features: (..., T, n, D) float, after the merger.
    Returns: (..., T n) in raster order, frame after frame.
    """
    units = normalise(features)
    alike = (units[..., 1:, :, :] * units[..., :-1, :, :]).sum(dim=-1)
    first = torch.full_like(units[..., :1, :, 0], 255.0)
    return torch.cat([first, 1 - alike], dim=-2).flatten(-2)


def measure_commonness(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how near each token is to the mean of the clip and to that of its frame.

    Source: VidCom2 (arXiv 2505.14454): on the half of the channels that vary least over the clip,
    a sum of Gaussians of five widths of the distance between normalised tokens.

    Args: features: (..., T, n, D) float, after the merger.
    Returns: two (..., T, n), each in 0..5.
    """
    wide = widen(features)
    variance = wide.flatten(-3, -2).var(dim=-2)  # (..., D)
    calm = torch.sort(variance, dim=-1, stable=True).indices[..., : variance.shape[-1] // 2]
    index = calm[..., None, None, :].expand(*wide.shape[:-1], calm.shape[-1])
    units = normalise(wide.gather(-1, index))
    near = []
    for dims in ((-3, -2), (-2,)):
        squared = (units - units.mean(dim=dims, keepdim=True)).square().sum(dim=-1)
        near.append(sum_gaussians(squared))
    return near[0], near[1]


def sum_gaussians(squared: torch.Tensor) -> torch.Tensor:
    """Return the sum of exp(-squared / 2^(e + 1)) over e = -3..1, elementwise."""
    total = torch.zeros_like(squared)
    for exponent in range(-3, 2):
        total = total + torch.exp(-squared / 2.0 ** (exponent + 1))
    return total


def count_frames(near_clip: torch.Tensor, rate: float) -> torch.Tensor:
    """Return how many tokens each frame keeps: more where its tokens are far from the clip's mean.

    Source: VidCom2, with temperature 0.01.

    Args:
        near_clip: (..., T, n), of `measure_commonness`.
        rate: share that goes, in 0..1.
    Returns: (..., T) int64, each at least 1.
    """
    share = (-near_clip.mean(dim=-1) / 0.01).softmax(dim=-1)
    share = (1 - rate) * (1 + share - share.mean(dim=-1, keepdim=True))
    return (share.clamp(max=1) * near_clip.shape[-1]).round().long().clamp_min(1)


def choose_vidcom2(features: torch.Tensor, rate: float, count: int) -> torch.Tensor:
    """Return the least common tokens of each frame, in all exactly `count`.

    Source: VidCom2 (arXiv 2505.14454).
    Differs: the authors' counts of frames do not sum up to the count asked for; as in vLLM, the
    most common kept tokens of the clip go, or the least common others come, until they do.

    Args:
        features: (..., T, n, D) float, after the merger.
        rate: share that goes, in 0..1.
        count: K; published `count_video` with at least one per frame.
    Returns: (..., K) int64 among the T n tokens, ascending.
    """
    near_clip, near_frame = measure_commonness(features)
    common = near_clip + near_frame
    kept = rank_descending(-common) < count_frames(near_clip, rate)[..., None]
    worth = kept.flatten(-2) * kept.shape[-2:].numel() - rank_descending(-common.flatten(-2))
    return top_k(worth, count)
