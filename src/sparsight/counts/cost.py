"""What counts of tokens cost, from a decoder's sizes to multiply-accumulates and bytes.

Pure arithmetic: knows no model, no tensor and no method.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sparsight.counts.schedule import Schedule


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a Llama-like decoder, enough to count its work.

    Args:
        layers: L.
        width: D, of the hidden states.
        heads: query heads.
        kv_heads: key and value heads, fewer than query heads where these share them.
        head_dim: numbers of one head.
        ffn_width: of the feed-forward block's inner layer.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_width: int


def decoder_macs(shape: DecoderShape, tokens_per_layer: Sequence[int]) -> int:
    """Return a prefill's multiply-accumulates in the decoder layers.

    Source: SparseVLM, authors' code: 4 n D^2 + 2 n^2 D + 3 n D m per layer for n tokens (they print
    it as FLOPs).
    Differs: grouped-query attention is counted as it is; equal to the source where kv_heads =
    heads.

    Args: tokens_per_layer: (L,) text and visual tokens entering each layer.
    """
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    linear = shape.width * (2 * q + 2 * kv + 3 * shape.ffn_width)
    return sum(n * linear + 2 * n * n * q for n in tokens_per_layer)


def projection_macs(shape: DecoderShape, tokens: int) -> int:
    """Return the multiply-accumulates of one layer's queries, keys and values.

    Args: tokens: that they are computed of.
    """
    return tokens * shape.width * (shape.heads + 2 * shape.kv_heads) * shape.head_dim


def selection_macs(
    shape: DecoderShape, text: int, raters: int, schedule: Schedule, pools: Sequence[int]
) -> int:
    """Return the multiply-accumulates of choosing tokens as SparseVLM does.

    Raters are chosen once, scores are read at each site, and dropped tokens are clustered. Methods
    without raters have the clustering alone; what else a method computes to choose is not counted
    but timed, by benchmarks/selection.py.

    Args:
        text: text tokens that may rate.
        raters: text tokens that do; 0 for methods that read no attention.
        schedule: counts of the sample.
        pools: tokens of each clustering.
    """
    total = text * schedule.visual_tokens * shape.width if raters else 0
    present = schedule.visual_tokens
    for count in schedule.counts:
        total += raters * present * shape.heads * shape.head_dim
        present = count
    return total + sum(pool * pool for pool in pools) * shape.width


def kv_bytes(
    shape: DecoderShape,
    tokens_per_layer: Sequence[int],
    value_bytes: int,
    windows: Sequence[int] = (),
) -> int:
    """Return the bytes of keys and values that a prefill of one sample leaves in the cache.

    Args:
        tokens_per_layer: (L,) text and visual tokens entering each layer.
        value_bytes: bytes of one number.
        windows: (L,) sliding window of each layer, whose cache holds one token fewer; 0 for none,
            () where no layer has one.
    """
    limits = windows or (0,) * len(tokens_per_layer)
    stored = 0
    for tokens, window in zip(tokens_per_layer, limits, strict=True):
        stored += min(tokens, window - 1) if window else tokens
    return stored * 2 * shape.kv_heads * shape.head_dim * value_bytes
