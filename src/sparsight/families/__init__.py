"""Families of vision-language models that sparsight hosts, and how to find a model's."""

from torch import nn

from sparsight.families.aria import ARIA
from sparsight.families.cohere_vision import COHERE_VISION
from sparsight.families.deepseek import DEEPSEEK_VL, JANUS
from sparsight.families.family import Family, decoder_shape
from sparsight.families.generic import generic_family
from sparsight.families.got_ocr2 import GOT_OCR2
from sparsight.families.idefics import IDEFICS
from sparsight.families.internvl import INTERNVL
from sparsight.families.llava import LLAVA
from sparsight.families.llava_next import LLAVA_NEXT, LLAVA_NEXT_VIDEO
from sparsight.families.llava_onevision import LLAVA_ONEVISION
from sparsight.families.mistral3 import MISTRAL3
from sparsight.families.ovis2 import OVIS2
from sparsight.families.video_llava import VIDEO_LLAVA
from sparsight.families.vipllava import VIPLLAVA

__all__ = ["Family", "decoder_shape", "families", "family_of"]


def families() -> tuple[Family, ...]:
    """Return every family that is hosted, in the order of the documentation."""
    return (
        LLAVA,
        LLAVA_NEXT,
        LLAVA_NEXT_VIDEO,
        LLAVA_ONEVISION,
        VIDEO_LLAVA,
        VIPLLAVA,
        INTERNVL,
        IDEFICS,
        MISTRAL3,
        COHERE_VISION,
        OVIS2,
        GOT_OCR2,
        DEEPSEEK_VL,
        JANUS,
        ARIA,
    )


def family_of(model: nn.Module) -> Family:
    """Find the family of a model by its class name, or by its parts if nobody registered the class.

    Raises: UnsupportedError: no family knows the class, and its parts do not follow LLaVA's pattern.
    """
    name = type(model).__name__
    for family in families():
        if name in family.classes:
            return family
    return generic_family(model)
