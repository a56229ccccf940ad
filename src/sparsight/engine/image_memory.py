"""Remembers the features that a model's image encoder returned, to encode no image twice in a row.

Private detail of transformers touched here: models encode through the methods `get_image_features`
and `get_video_features` of the part that merges images into the text, and take what those return.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import wraps
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from sparsight.engine.encoder_needs import KEPT, has_signals
from sparsight.engine.passes import find_pass_on
from sparsight.errors import UnsupportedError
from sparsight.sequence.encoded import Encoded

ENCODERS = ("get_image_features", "get_video_features")

Memory = dict[str, Any]  # by name of the method: what it was called with, and what it returned

_LOCK = Lock()
_BLOCKS: "WeakKeyDictionary[nn.Module, _Blocks]" = WeakKeyDictionary()
# the innermost block that the caller has open: base model, memory, and the block around it
_CURRENT: ContextVar["tuple[nn.Module, Memory, Any] | None"] = ContextVar(
    "sparsight_memory", default=None
)


class _Blocks:
    """The blocks that are open on one model, in all threads.

    `count` is their number. `before` are methods, by name, that were set on the instance before the
    first block was opened.
    """

    def __init__(self) -> None:
        self.count = 0
        self.before: dict[str, Any] = {}


@contextmanager
def remembered_images(base: nn.Module, memory: Memory) -> Iterator[None]:
    """Have a model reuse the features of the images that it encoded last, inside the block.

    Images at another scale are encoded anew, and so are images whose tokens are merged or left out
    otherwise, and all images when weights have changed. Only the caller that opens the block reuses
    its features: the model's methods are wrapped while any thread has a block open, and each call
    looks up the memory of its own caller.

    Args:
        base: the part that merges image features into the text.
        memory: what was encoded last, by method; this function changes it.
    Raises: UnsupportedError: the model has none of the methods in ENCODERS.
    """
    _open_block(base)
    token = _CURRENT.set((base, memory, _CURRENT.get()))
    try:
        yield
    finally:
        _CURRENT.reset(token)
        _close_block(base)


def _open_block(base: nn.Module) -> None:
    """Count a block of a model, and wrap its methods if it is the first."""
    names = [name for name in ENCODERS if hasattr(base, name)]
    if not names:
        raise UnsupportedError(
            f"{type(base).__name__} has no {' or '.join(ENCODERS)}, so its encoded images cannot "
            "be kept; use Chat(reuse='cache')."
        )
    with _LOCK:
        blocks = _BLOCKS.setdefault(base, _Blocks())
        if not blocks.count:
            blocks.before = {name: vars(base)[name] for name in names if name in vars(base)}
            wrapped = {name: _wrap_encoder(name, getattr(base, name), base) for name in names}
            vars(base).update(wrapped)
        blocks.count += 1


def _close_block(base: nn.Module) -> None:
    """Uncount a block of a model, and unwrap its methods if it was the last."""
    with _LOCK:
        blocks = _BLOCKS[base]
        blocks.count -= 1
        if not blocks.count:
            for name in ENCODERS:
                vars(base).pop(name, None)
            vars(base).update(blocks.before)
            del _BLOCKS[base]


def _find_memory(base: nn.Module) -> Memory | None:
    """Return the memory of the innermost block that the caller has open on a model."""
    block = _CURRENT.get()
    while block is not None and block[0] is not base:
        block = block[2]
    return None if block is None else block[1]


def _wrap_encoder(name: str, encode: Callable[..., Any], base: nn.Module) -> Callable[..., Any]:
    """Return a method that encodes, or returns what the caller's memory holds for its arguments."""

    @wraps(encode)  # generate() reads the signature
    def encode_or_remember(*args: Any, **kwargs: Any) -> Any:
        memory = _find_memory(base)
        if memory is None:
            return encode(*args, **kwargs)
        state = find_pass_on(base)
        scale, needs = (None, ()) if state is None else (state.scale, state.needs)
        encoding = None if state is None else state.encoding
        call = (args, kwargs, scale, encoding, _read_versions(base))
        known = name in memory and _are_equal(memory[name][0], call)
        if not known:
            memory[name] = call, encode(*args, **kwargs)
        elif not has_signals(memory[name][1], needs):
            before, output = memory[name][1], encode(*args, **kwargs)
            _add_signals(output, before)
            memory[name] = call, output
        elif state is not None:
            # hooks on encoder and projector note both when images are encoded
            state.encoded = scale
            if needs:
                state.encoded_parts.append(getattr(memory[name][1], KEPT))
        return memory[name][1]

    return encode_or_remember


def _add_signals(output: Any, before: Any) -> None:
    """Add what was read when the same images were encoded before, so that methods can alternate."""
    earlier, now = getattr(before, KEPT, None), getattr(output, KEPT, None)
    if isinstance(earlier, Encoded) and isinstance(now, Encoded):
        setattr(output, KEPT, replace(now, values={**earlier.values, **now.values}))


def _read_versions(base: nn.Module) -> tuple[tuple[int, int], ...]:
    """Return id and version of each parameter, which change when it is replaced or written to."""
    return tuple(
        (id(part), 0 if part.is_inference() else part._version) for part in base.parameters()
    )


def _are_equal_tensors(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and bool(torch.equal(a, b))


def _are_equal(a: Any, b: Any) -> bool:
    """Return whether two arguments are equal, tensors compared by value."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return _are_equal_tensors(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and _are_equal(list(a.values()), [b[key] for key in a])
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(_are_equal, a, b))
    return type(a) is type(b) and bool(a == b)
