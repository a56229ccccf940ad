"""What counts of tokens cost: from a decoder's sizes to FLOPs and bytes. Pure arithmetic; knows no tensor."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparsight.counts.schedule import Schedule


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a Llama-like decoder, enough to count its work."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_width: int


def decoder_macs(shape: DecoderShape, tokens_per_layer: Sequence[int]) -> int:
    """Count a prefill's multiply-accumulates in the decoder layers.

    Source: SparseVLM, authors' code: 4 n D^2 + 2 n^2 D + 3 n D m per layer for n tokens (they print
    it as FLOPs).
    Differs: grouped-query attention is counted as it is; equal to the source where kv_heads =
    heads.

    Args: tokens_per_layer: (L,) text and visual tokens entering each layer.
    """
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    linear = shape.width * (2 * q + 2 * kv + 3 * shape.ffn_width)
    return sum(n * linear + 2 * n * n * q for n in tokens_per_layer)


def selection_macs(
    shape: DecoderShape, text: int, raters: int, schedule: Schedule, pools: Sequence[int]
) -> int:
    """Count the multiply-accumulates that choosing costs: raters once, scores at each site, and clustering.

    Args: pools: tokens of each clustering.
    """
    total = text * schedule.visual_tokens * shape.width
    now = schedule.visual_tokens
    for kept, recycled in zip(schedule.kept, schedule.recycled, strict=True):
        total += raters * now * shape.heads * shape.head_dim
        now = kept + recycled
    return total + sum(pool * pool for pool in pools) * shape.width


def kv_bytes(
    shape: DecoderShape,
    tokens_per_layer: Sequence[int],
    value_bytes: int,
    windows: Sequence[int] = (),
) -> int:
    """Count the bytes of keys and values that a prefill leaves in the cache, for one sample.

    Args: windows: (L,) what a layer's cache forgets beyond, itself included, 0 for nothing; ()
    where none forgets.
    """
    limits = windows or (0,) * len(tokens_per_layer)
    stored = sum(min(n, w - 1) if w else n for n, w in zip(tokens_per_layer, limits, strict=True))
    return stored * 2 * shape.kv_heads * shape.head_dim * value_bytes
