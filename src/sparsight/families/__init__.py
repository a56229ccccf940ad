"""Families of vision-language models that sparsight hosts, and how to find a model's."""

from torch import nn

from sparsight.errors import UnsupportedError
from sparsight.families.aria import ARIA
from sparsight.families.cohere_vision import COHERE_VISION
from sparsight.families.deepseek import DEEPSEEK_VL, JANUS
from sparsight.families.family import Family, decoder_shape
from sparsight.families.gemma3 import GEMMA3
from sparsight.families.generic import generic_family, text_family
from sparsight.families.glm4v import GLM4V
from sparsight.families.got_ocr2 import GOT_OCR2
from sparsight.families.idefics import IDEFICS
from sparsight.families.internvl import INTERNVL
from sparsight.families.llava import LLAVA
from sparsight.families.llava_next import LLAVA_NEXT, LLAVA_NEXT_VIDEO
from sparsight.families.llava_onevision import LLAVA_ONEVISION
from sparsight.families.mistral3 import MISTRAL3
from sparsight.families.ovis2 import OVIS2
from sparsight.families.paligemma import PALIGEMMA
from sparsight.families.qwen3_vl import QWEN3_VL
from sparsight.families.qwen_vl import QWEN_VL
from sparsight.families.refused import REFUSED
from sparsight.families.video_llava import VIDEO_LLAVA
from sparsight.families.vipllava import VIPLLAVA

__all__ = ["Family", "decoder_shape", "families", "family_of", "text_family"]


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
        QWEN_VL,
        QWEN3_VL,
        GLM4V,
        GEMMA3,
        PALIGEMMA,
    )


def family_of(model: nn.Module) -> Family:
    """Find the family of a model by its class name, or by its parts if nobody registered the class.

    Raises: UnsupportedError: no family knows the class and its parts are not like LLaVA's, or it is
    known not to work.
    """
    name = type(model).__name__
    for family in families():
        if name in family.classes:
            return family
    if name in REFUSED:
        raise UnsupportedError(
            f"{name} is not supported: {REFUSED[name]}. Use a model of another family."
        )
    return generic_family(model)
