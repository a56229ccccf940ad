"""merge_rest: the answer of a method that folds every token into one of those that it keeps."""

import torch

from sparsight.errors import MethodError
from sparsight.methods.parts.geometry import compare
from sparsight.methods.parts.merging import merge
from sparsight.methods.view import Recycled, Selection, View

APART = 4.0  # more than the 2 by which two cosines can differ


def merge_rest(view: View, keep: torch.Tensor, score: torch.Tensor | None = None) -> Selection:
    """Return an answer in which each token that is not kept is averaged into the one most like it.

    Likeness is the cosine of hidden states. A token goes to one of its own image, if that image
    keeps any. A kept token stays in its place and becomes the mean of its group; a trace shows it
    as a recycled one.

    Args:
        view: of a group, (G, V, D), or of one sample, (V, D).
        keep: (G, K) or (K,) int64, ascending.
        score: (G, V) or (V,), for the trace.
    Raises: MethodError: `keep` holds no token.
    """
    clusters = keep.shape[-1]
    if not clusters:
        raise MethodError("merge_rest has no token to merge into; keep at least one.")
    likeness = compare(view.hidden).rows(keep)  # (..., K, V)
    images = view.images
    likeness = likeness - APART * (images.gather(-1, keep)[..., None] != images[..., None, :])
    own = torch.arange(clusters, device=keep.device).expand_as(keep)
    labels = likeness.argmax(dim=-2).scatter(-1, keep, own)  # (..., V)
    values = merge(view.hidden, labels, clusters, "mean")
    pool = torch.arange(labels.shape[-1], device=keep.device).expand_as(labels)
    return Selection(keep[..., :0], Recycled(values, keep, pool, labels), score)
