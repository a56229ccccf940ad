"""The tap: reads q, k, mask, scaling and softcap of one layer's attention calls.

A tap hands each call of an attention module to a function of ours, and then to the kernel that the
user chose, unchanged but for the mask where that function returns another one. Private details of
transformers touched here: the attention registry (`ALL_ATTENTION_FUNCTIONS`),
`_attn_implementation` of the config that an attention module holds, `is_causal` of that module, and
the name `eager_attention_forward` in its file.
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

# what a tap hands each call to; it returns an additive mask to use instead of the call's, or None
Sink = Callable[[AttentionCall], torch.Tensor | None]
# takes what removes a hook or tap, as soon as that is on, so that an error half way leaves none
AddRemover = Callable[[Callable[[], None]], None]


class _TapConfig:
    """A config that names the tap as its attention function and has all else from another config.

    Args:
        config: of the attention module.
        sink: what the tap hands each call to.
    """

    def __init__(self, config: Any, sink: Sink) -> None:
        self.tapped_config = config
        self.tap_sink = sink

    def __getattr__(self, name: str) -> Any:
        if "tapped_config" not in self.__dict__:
            raise AttributeError(name)  # while a copy is made, it has no attributes yet
        return getattr(self.__dict__["tapped_config"], name)

    @property
    def _attn_implementation(self) -> str:
        return TAP_NAME


def attach_tap(attention: Any, sink: Sink) -> Callable[[], None]:
    """Put a tap on an attention module.

    Args:
        attention: the module.
        sink: what the tap hands each call to.
    Returns: a function that removes the tap.
    Raises: UnsupportedError: the module does not choose its kernel as transformers' attention
        modules do.
    """
    config = getattr(attention, "config", None)
    names_kernel = hasattr(config, "_attn_implementation")
    if not names_kernel or not hasattr(ALL_ATTENTION_FUNCTIONS, "get_interface"):
        raise UnsupportedError(
            f"{type(attention).__name__} does not name its kernel as config._attn_implementation, "
            f"so its attention cannot be read; {TESTED_WITH}."
        )
    if TAP_NAME not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(TAP_NAME, _call_tapped)
    attention.config = _TapConfig(config, sink)

    def detach() -> None:
        attention.config = config

    return detach


def _call_tapped(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Hand an attention call to the tap's sink, then return the chosen kernel's result."""
    tap: Any = module.config
    scaling = kwargs.get("scaling")
    scaling = float(query.shape[-1] ** -0.5 if scaling is None else scaling)
    causal = bool(getattr(module, "is_causal", True))
    call = AttentionCall(query, key, attention_mask, scaling, kwargs.get("softcap"), causal)
    mask = tap.tap_sink(call)
    attention_mask = attention_mask if mask is None else mask
    # each modeling file of transformers has its own eager kernel, which is in no registry
    modeling_file = cast("Any", sys.modules[type(module).__module__])
    kernel = ALL_ATTENTION_FUNCTIONS.get_interface(
        tap.tapped_config._attn_implementation, modeling_file.eager_attention_forward
    )
    result: tuple[torch.Tensor, torch.Tensor | None] = kernel(
        module, query, key, value, attention_mask, **kwargs
    )
    return result
