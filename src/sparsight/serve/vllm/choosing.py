"""Which tokens of one image stay: a method of the library, asked outside of its engine. No vLLM.

The count depends on the layout alone, so that it is known before the image is encoded.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from sparsight.counts.layout import Layout
from sparsight.errors import MethodError
from sparsight.methods.encoder import EncoderNeed, EncoderSignals, TextSignal
from sparsight.methods.method import Method
from sparsight.methods.view import View

FEATURES = EncoderNeed("features")


def count_kept(method: Method, layout: Layout, retain: int | float | None) -> int:
    """Return how many tokens of an image stay.

    Args:
        method: that chooses before the decoder alone.
        layout: of the image's V tokens.
        retain: a count, a fraction, or None for all.
    """
    plan = replace(method, retain=1.0 if retain is None else retain).plan(layout, 1)
    return plan.counts[-1]


def choose_kept(
    method: Method,
    tokens: torch.Tensor,
    layout: Layout,
    count: int,
    *,
    text: tuple[torch.Tensor, Sequence[int]] | None = None,
    features: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return which tokens of an image stay.

    Args:
        method: that chooses before the decoder alone.
        tokens: (V, D) float, as they enter the decoder.
        layout: of the V tokens.
        count: K, of `count_kept`.
        text: (T, D) input embeddings and T ids of the guiding words; None where none guide.
        features: (V, D_enc) of the image encoder before the projector, for methods that read them.
    Returns: (K,) int64 on the device of the tokens, ascending.
    Raises: MethodError: the layout or the answer does not fit.
    """
    if len(layout) != len(tokens):
        raise MethodError(
            f"an image has {len(tokens)} tokens, and {len(layout)} were expected from its size."
        )
    if count >= len(tokens):
        return torch.arange(len(tokens), device=tokens.device)
    values = {} if features is None else {FEATURES: features[None]}
    view = View(
        site=0,
        count=count,
        keep_count=count,
        hidden=tokens[None],
        images=torch.zeros(1, len(tokens), dtype=torch.int64, device=tokens.device),
        layout=layout,
        text=None if text is None else TextSignal(text[0][None], None, (tuple(text[1]),)),
        encoder=EncoderSignals(values),
    )
    keep = method.select(view).keep[0]
    if len(keep) != count:
        raise MethodError(f"{type(method).__name__} kept {len(keep)} tokens instead of {count}.")
    return keep
