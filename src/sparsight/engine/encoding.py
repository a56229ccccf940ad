"""Chooses what reads or changes a model's image encoder, and checks features encoded before.

Private details of transformers touched here: `mm_encoder_outputs` of models.
"""

from collections.abc import Mapping
from typing import Any

from sparsight.engine.encoder_merging import MergingTap
from sparsight.engine.encoder_needs import KEPT, list_needs
from sparsight.engine.encoder_tap import EncoderTap
from sparsight.engine.encoder_thinning import ThinningTap
from sparsight.engine.ledger import Owner
from sparsight.engine.outline import Encoding
from sparsight.engine.parts import Parts
from sparsight.errors import UnsupportedError
from sparsight.methods.method import Method

# by the kind of need that changes how images are encoded
TAPS: dict[str, type[EncoderTap]] = {"merged": MergingTap, "encoded": ThinningTap}


def make_tap(owner: Owner, parts: Parts, method: Method) -> EncoderTap | None:
    """Return what reads or changes the image encoder; None if the method does neither."""
    needs = list_needs(method)
    if not needs:
        return None
    kinds = (TAPS[need.kind] for need in needs if need.kind in TAPS)
    return next(kinds, EncoderTap)(owner, parts, method)


def check_encoding(arguments: Mapping[str, Any], encoding: Encoding | None) -> None:
    """Check that images that were encoded before a pass were encoded as the pass needs them.

    Args:
        arguments: of the base model, by name.
        encoding: of the pass.
    Raises: UnsupportedError: tokens were merged or left out for another method or budget.
    """
    outputs = arguments.get("mm_encoder_outputs") or {}
    for output in outputs.values():
        encoded = getattr(output, KEPT, None)
        before = None if encoded is None else encoded.encoding
        if before is not None and (encoding is None or not before.fits(encoding)):
            raise UnsupportedError(
                "mm_encoder_outputs bring images whose tokens were merged or left out inside the "
                "encoder, for another method or budget; give pixel_values."
            )
