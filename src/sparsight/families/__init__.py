"""Families of vision-language models that sparsight hosts, and how to find a model's family."""

from torch import nn

from sparsight.errors import UnsupportedError
from sparsight.families.family import Family, decoder_shape
from sparsight.families.gemma import GEMMA3, PALIGEMMA
from sparsight.families.llava_like import (
    ARIA,
    COHERE_VISION,
    DEEPSEEK_VL,
    GOT_OCR2,
    IDEFICS,
    INTERNVL,
    JANUS,
    LLAVA,
    MISTRAL3,
    OVIS2,
    VIDEO_LLAVA,
    VIPLLAVA,
)
from sparsight.families.llava_next import LLAVA_NEXT, LLAVA_NEXT_VIDEO, LLAVA_ONEVISION
from sparsight.families.mini_gemini import MINI_GEMINI
from sparsight.families.qwen_vl import GLM4V, QWEN3_VL, QWEN_VL
from sparsight.families.refused import REFUSED
from sparsight.families.unknown import find_unknown_family, text_family

__all__ = ["Family", "decoder_shape", "families", "family_named", "family_of", "text_family"]


def families() -> tuple[Family, ...]:
    """Return every family that is hosted, in the order of the documentation."""
    return (
        LLAVA,
        LLAVA_NEXT,
        LLAVA_NEXT_VIDEO,
        LLAVA_ONEVISION,
        VIDEO_LLAVA,
        VIPLLAVA,
        MINI_GEMINI,
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
    """Return the family of a model, by its class name or, for an unregistered class, by its parts.

    Raises: UnsupportedError: the class is refused, or its parts are not like LLaVA's.
    """
    family = find_registered(type(model).__name__)
    return find_unknown_family(model) if family is None else family


def family_named(name: str) -> Family:
    """Return the family of a model class, by its name.

    Raises: UnsupportedError: the class is refused or not registered.
    """
    family = find_registered(name)
    if family is None:
        raise UnsupportedError(
            f"{name} is not a supported class; `sparsight models` lists the supported classes, "
            "and a model of another class is judged by its parts once it is loaded."
        )
    return family


def find_registered(name: str) -> Family | None:
    """Return the family of a model class, by its name; None if it is not registered.

    Raises: UnsupportedError: the class is refused.
    """
    if name in REFUSED:
        raise UnsupportedError(
            f"{name} is not supported: {REFUSED[name]}. Use a model of another family."
        )
    return next((family for family in families() if name in family.classes), None)
