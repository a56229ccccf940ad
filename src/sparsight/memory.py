"""Remembers what a model's image encoder said, so that the same images are not encoded twice.

Private detail of transformers touched here: models encode through the methods `get_image_features` and
`get_video_features` of the part that merges images into the text, and take what those return.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import nn

ENCODERS = ("get_image_features", "get_video_features")


@contextmanager
def remembered_images(base: nn.Module, memory: dict[str, Any]) -> Iterator[None]:
    """Have a model answer from memory, inside the block, when it is to encode what it encoded last.

    Args:
        base: the part that merges image features into the text.
        memory: what was encoded last, by method; written to.
    """
    own = {name: vars(base).get(name) for name in ENCODERS}
    for name in ENCODERS:
        if hasattr(base, name):
            vars(base)[name] = _remembering(name, getattr(base, name), memory)
    try:
        yield
    finally:
        for name, before in own.items():
            vars(base).pop(name, None)
            if before is not None:
                vars(base)[name] = before


def _remembering(name: str, encode: Callable[..., Any], memory: dict[str, Any]) -> Callable[..., Any]:
    @wraps(encode)  # generate() reads the signature
    def encoded(*args: Any, **kwargs: Any) -> Any:
        given = (args, kwargs)
        if name not in memory or not _same(memory[name][0], given):
            memory[name] = given, encode(*args, **kwargs)
        return memory[name][1]

    return encoded


def _same(a: Any, b: Any) -> bool:
    """Compare arguments, tensors by value."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.device == b.device and bool(torch.equal(a, b))
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return type(a) is type(b) and bool(a == b)
