"""The tap: reads q, k, mask, scaling and softcap of a scoring layer's attention call, and turns rater rows to scores.

Kernels stay as the user chose them: the tapped call goes on to the very function it would have gone to. Only the rows
of the raters are ever multiplied out. Private details of transformers touched here: the attention registry
(`ALL_ATTENTION_FUNCTIONS`), the name `_attn_implementation` on the config that an attention module holds, its
`is_causal`, and the name `eager_attention_forward` in its file.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from sparsight.compat import TESTED_WITH
from sparsight.errors import UnsupportedError

TAP_NAME = "sparsight_tap"
CHUNK_BYTES = 64 * 2**20  # of float32 probabilities at a time

Sink = Callable[["AttentionCall"], None]


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One attention call of one layer, as the kernel saw it.

    Args:
        query: (B, H, N, d), positions already applied.
        key: (B, H_kv, N_k, d), cache included.
        mask: None, or (B or 1, 1 or H, N, N_k) bool (True: allowed) or float (added).
        scaling: factor on the products.
        softcap: tanh cap on the scaled products, or None.
        causal: whether no mask means causal; otherwise every token then sees every other.
    """

    query: torch.Tensor
    key: torch.Tensor
    mask: torch.Tensor | None
    scaling: float
    softcap: float | None
    causal: bool = True


@dataclass(frozen=True, eq=False)
class RaterRows:
    """Post-softmax attention of rater rows to visual columns, multiplied out in chunks of raters.

    Source: SparseVLM eq. 6 and 7; the softmax runs over all keys a rater may see and is not renormalised.

    Args:
        rater_rows: (R,) int64 query indices.
        columns: (V,) int64 key indices.
    """

    call: AttentionCall
    sample: int
    rater_rows: torch.Tensor
    columns: torch.Tensor

    def mean_over_heads(self) -> torch.Tensor:
        """Return (R, V), float32 or wider."""
        return torch.cat([part.mean(dim=0) for part, _ in self._chunks()])

    def mean_over_raters(self, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Return (H, V), float32 or wider; probabilities are multiplied by `weight` (R, V) first."""
        total: torch.Tensor | None = None
        for part, where in self._chunks():
            summed = (part if weight is None else part * weight[where]).sum(dim=1)
            total = summed if total is None else total + summed
        if total is None:
            raise ValueError("no rater rows to average")
        return total / len(self.rater_rows)

    def _chunks(self) -> Iterator[tuple[torch.Tensor, slice]]:
        """Yield (H, r, V) probabilities and the raters they are of."""
        call = self.call
        heads, keys = call.query.shape[1], call.key.shape[2]
        step = max(1, CHUNK_BYTES // (4 * heads * keys))
        for start in range(0, len(self.rater_rows), step):
            where = slice(start, min(start + step, len(self.rater_rows)))
            yield self._probabilities(self.rater_rows[where])[..., self.columns], where

    def _probabilities(self, rows: torch.Tensor) -> torch.Tensor:
        call, wide = self.call, torch.promote_types(self.call.query.dtype, torch.float32)
        query = call.query[self.sample][:, rows].to(wide)  # (H, r, d)
        key = call.key[self.sample].to(wide)  # (H_kv, N_k, d)
        grouped = query.view(key.shape[0], -1, *query.shape[1:])  # (H_kv, H / H_kv, r, d)
        logits = (grouped @ key[:, None].transpose(-1, -2)).flatten(0, 1) * call.scaling  # (H, r, N_k)
        if call.softcap is not None:
            logits = torch.tanh(logits / call.softcap) * call.softcap
        return self._masked(logits, rows).softmax(dim=-1)

    def _masked(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        call, mask = self.call, self.call.mask
        if mask is None and not call.causal:
            return logits
        if mask is None:
            past = call.key.shape[2] - call.query.shape[2]
            columns = torch.arange(call.key.shape[2], device=rows.device)
            return logits.masked_fill(columns > rows[:, None] + past, float("-inf"))
        mask = mask[self.sample if mask.shape[0] > 1 else 0][:, rows]  # (1 or H, r, N_k)
        if mask.dtype == torch.bool:
            return logits.masked_fill(~mask, float("-inf"))
        return logits + mask.to(logits.dtype)


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
    Raises: UnsupportedError: the module does not choose its kernel as transformers' attention modules do.
    """
    config = getattr(attention, "config", None)
    if not hasattr(config, "_attn_implementation") or not hasattr(ALL_ATTENTION_FUNCTIONS, "get_interface"):
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
    real = ALL_ATTENTION_FUNCTIONS.get_interface(tap.tapped_config._attn_implementation, home.eager_attention_forward)
    result: tuple[torch.Tensor, torch.Tensor | None] = real(module, query, key, value, attention_mask, **kwargs)
    return result
