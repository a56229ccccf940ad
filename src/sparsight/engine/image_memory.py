"""Remembers what a model's image encoder said, so that the same images are not encoded twice.

Private detail of transformers touched here: models encode through the methods `get_image_features`
and `get_video_features` of the part that merges images into the text, and take what those return.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from sparsight.engine.passes import pass_on
from sparsight.errors import UnsupportedError

ENCODERS = ("get_image_features", "get_video_features")

Memory = dict[str, Any]

_LOCK = Lock()
_BLOCKS: "WeakKeyDictionary[nn.Module, _Blocks]" = WeakKeyDictionary()
_CURRENT: ContextVar["tuple[nn.Module, Memory, Any] | None"] = ContextVar(
    "sparsight_memory", default=None
)


class _Blocks:
    """The blocks that are open on one model, in all threads.

    Args:
        count: of them.
        own: methods that stood on the instance before the first one, by name.
    """

    def __init__(self) -> None:
        self.count = 0
        self.own: dict[str, Any] = {}


@contextmanager
def remembered_images(base: nn.Module, memory: Memory) -> Iterator[None]:
    """Have a model answer from memory, inside the block and for its caller alone, when it encodes what it encoded last.

    Images at another scale, and other weights, are encoded anew.

    The model's methods are wrapped while any thread has a block open; each call looks up its own
    caller's memory.

    Args:
        base: the part that merges image features into the text.
        memory: what was encoded last, by method; written to.
    Raises: UnsupportedError: the model encodes through no method that is known.
    """
    _enter(base)
    token = _CURRENT.set((base, memory, _CURRENT.get()))
    try:
        yield
    finally:
        _CURRENT.reset(token)
        _leave(base)


def _enter(base: nn.Module) -> None:
    names = [name for name in ENCODERS if hasattr(base, name)]
    if not names:
        raise UnsupportedError(
            f"{type(base).__name__} has no {' or '.join(ENCODERS)}, so its encoded images cannot be kept; "
            "use Chat(reuse='cache')."
        )
    with _LOCK:
        blocks = _BLOCKS.setdefault(base, _Blocks())
        if not blocks.count:
            blocks.own = {name: vars(base)[name] for name in names if name in vars(base)}
            vars(base).update(
                {name: _remembering(name, getattr(base, name), base) for name in names}
            )
        blocks.count += 1


def _leave(base: nn.Module) -> None:
    with _LOCK:
        blocks = _BLOCKS[base]
        blocks.count -= 1
        if not blocks.count:
            for name in ENCODERS:
                vars(base).pop(name, None)
            vars(base).update(blocks.own)
            del _BLOCKS[base]


def _memory_of(base: nn.Module) -> Memory | None:
    """Return the memory of the innermost block that the caller has open on a model."""
    block = _CURRENT.get()
    while block is not None and block[0] is not base:
        block = block[2]
    return None if block is None else block[1]


def _remembering(name: str, encode: Callable[..., Any], base: nn.Module) -> Callable[..., Any]:
    @wraps(encode)  # generate() reads the signature
    def encoded(*args: Any, **kwargs: Any) -> Any:
        memory = _memory_of(base)
        if memory is None:
            return encode(*args, **kwargs)
        state = pass_on(base)
        scale = None if state is None else state.scale
        given = (args, kwargs, scale, _weights(base))
        if name not in memory or not _same(memory[name][0], given):
            memory[name] = given, encode(*args, **kwargs)
        elif state is not None:
            state.encoded = scale  # as the encoder would have noted
        return memory[name][1]

    return encoded


def _weights(base: nn.Module) -> tuple[tuple[int, int], ...]:
    """Return what changes when a parameter is replaced or written to; values are not looked at."""
    return tuple(
        (id(part), 0 if part.is_inference() else part._version) for part in base.parameters()
    )


def _same(a: Any, b: Any) -> bool:
    """Compare arguments, tensors by value."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.device == b.device and bool(torch.equal(a, b))
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return type(a) is type(b) and bool(a == b)
