"""Where methods compare tokens: decoder or encoder, as they are or centred as Cen-Prune does.

Source: Cen-Prune, arXiv 2608.30263. Written from the paper.
"""

from dataclasses import dataclass

import torch

from sparsight.methods.encoder import EncoderNeed
from sparsight.methods.method import Space
from sparsight.methods.parts.geometry import Cosines, compare, compare_centred, standardise
from sparsight.methods.parts.scores import (
    measure_distinctiveness,
    scale_min_max,
    scale_sigmoid,
)
from sparsight.methods.view import View

SPACES: tuple[Space, ...] = ("tokens", "features")


@dataclass(frozen=True)
class Compared:
    """How alike the tokens of an image are.

    Args:
        similarity: cosines, (..., N, N).
        weight: (..., N) in 0..1, how distinctive each token is; None where tokens are not centred.
    """

    similarity: Cosines
    weight: torch.Tensor | None = None

    def weigh(self, score: torch.Tensor | None) -> torch.Tensor | None:
        """Return a method's own score (..., N) times the weight; None if there is neither."""
        if score is None or self.weight is None:
            return self.weight if score is None else score
        return score * self.weight


def list_space_needs(space: Space) -> tuple[EncoderNeed, ...]:
    """Return what is read of the image encoder to compare tokens in a space."""
    return (EncoderNeed("features"),) if space == "features" else ()


def read_points(view: View, space: Space) -> torch.Tensor:
    """Return the tokens of a view in a space, (G, V, D) or (G, V, D_enc)."""
    return view.hidden if space == "tokens" else view.encoder.features()


def compare_in(space: Space, points: torch.Tensor, *, centred: bool) -> Compared:
    """Return how alike tokens are, and with Cen-Prune how distinctive each is.

    Source: Cen-Prune, which centres "tokens" for LLaVA and takes min-max weights, and standardises
        the channels of "features" for Qwen2.5-VL, one of which would decide alone, and takes the
        sigmoid of standard scores. A method's own score is multiplied by the weight.

    Args:
        space: which space the points are of.
        points: (..., N, D) of one image, tile or frame.
        centred: whether the mean of the tokens is taken from each.
    """
    if not centred:
        return Compared(compare(points))
    if space == "features":
        points = standardise(points)
    if points.shape[-2] == 1:  # nothing to be unlike
        weight = torch.ones(points.shape[:-1], device=points.device)
        return Compared(compare_centred(points), weight)
    scale = scale_min_max if space == "tokens" else scale_sigmoid
    return Compared(compare_centred(points), scale(measure_distinctiveness(points)))
