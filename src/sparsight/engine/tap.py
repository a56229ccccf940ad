"""The tap: reads q, k, mask, scaling and softcap of a scoring layer's attention call, and turns rater rows to scores.

Kernels stay as the user chose them: the tapped call goes on to the very function it would have gone
to. Only the rows of the raters are ever multiplied out. Private details of transformers touched
here: the attention registry (`ALL_ATTENTION_FUNCTIONS`), the name `_attn_implementation` on the
config that an attention module holds, its `is_causal`, and the name `eager_attention_forward` in
its file.
"""

import sys
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from sparsight.errors import TESTED_WITH, UnsupportedError
from sparsight.sequence.rater_rows import AttentionCall

TAP_NAME = "sparsight_tap"

Sink = Callable[["AttentionCall"], None]


class _TapConfig:
    """Stands before an attention module's config; only the name of the attention function differs."""

    def __init__(self, config: Any, sink: Sink) -> None:
        self.tapped_config, self.tap_sink = config, sink

    def __getattr__(self, name: str) -> Any:
        if "tapped_config" not in self.__dict__:
            raise AttributeError(name)  # a copy in the making
        return getattr(self.__dict__["tapped_config"], name)

    @property
    def _attn_implementation(self) -> str:
        return TAP_NAME


def attach_tap(attention: Any, sink: Sink) -> Callable[[], None]:
    """Have an attention module report its calls to `sink`.

    Returns: a function that takes the tap off again.
    Raises: UnsupportedError: the module does not choose its kernel as transformers' attention
    modules do.
    """
    config = getattr(attention, "config", None)
    if not hasattr(config, "_attn_implementation") or not hasattr(
        ALL_ATTENTION_FUNCTIONS, "get_interface"
    ):
        raise UnsupportedError(
            f"{type(attention).__name__} does not name its kernel as config._attn_implementation, so its attention "
            f"cannot be read; {TESTED_WITH}."
        )
    if TAP_NAME not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(TAP_NAME, _tapped)
    attention.config = _TapConfig(config, sink)

    def detach() -> None:
        attention.config = config

    return detach


def _tapped(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    tap: Any = module.config
    scaling = kwargs.get("scaling")
    scaling = float(query.shape[-1] ** -0.5 if scaling is None else scaling)
    causal = bool(getattr(module, "is_causal", True))
    tap.tap_sink(AttentionCall(query, key, attention_mask, scaling, kwargs.get("softcap"), causal))
    home = cast("Any", sys.modules[type(module).__module__])
    real = ALL_ATTENTION_FUNCTIONS.get_interface(
        tap.tapped_config._attn_implementation, home.eager_attention_forward
    )
    result: tuple[torch.Tensor, torch.Tensor | None] = real(
        module, query, key, value, attention_mask, **kwargs
    )
    return result
