"""What methods share that fold tokens into others, image by image."""

import torch

from sparsight.methods.parts.tensors import take
from sparsight.methods.view import Recycled


def join_recycled(parts: list[Recycled]) -> Recycled | None:
    """Return the rebuilt tokens of all images as one, in the order of their centres.

    Args: parts: of each image, labels counted from 0 in each.
    Returns: None if there are none.
    """
    if not parts:
        return None
    labels, first = [], 0
    for part in parts:
        labels.append(part.labels + first)
        first += part.centres.shape[-1]
    centres, order = torch.cat([part.centres for part in parts], dim=-1).sort(dim=-1)
    values = take(torch.cat([part.values for part in parts], dim=-2), order)
    pool = torch.cat([part.pool for part in parts], dim=-1)
    place = torch.empty_like(order).scatter(
        -1, order, torch.arange(first, device=order.device).expand_as(order)
    )
    return Recycled(values, centres, pool, place.gather(-1, torch.cat(labels, dim=-1)))
