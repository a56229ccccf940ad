"""Families of vision-language models that sparsight hosts, and how to find a model's."""

from torch import nn

from sparsight.errors import UnsupportedError
from sparsight.families.family import Family, decoder_shape
from sparsight.families.gemma3 import GEMMA3
from sparsight.families.glm4v import GLM4V
from sparsight.families.llava import LLAVA
from sparsight.families.paligemma import PALIGEMMA
from sparsight.families.qwen3_vl import QWEN3_VL
from sparsight.families.qwen_vl import QWEN_VL
from sparsight.families.refused import REFUSED

__all__ = ["Family", "decoder_shape", "families", "family_of"]


def families() -> tuple[Family, ...]:
    """Return every family that is hosted, in the order of the documentation."""
    return (
        LLAVA,
        QWEN_VL,
        QWEN3_VL,
        GLM4V,
        GEMMA3,
        PALIGEMMA,
    )


def family_of(model: nn.Module) -> Family:
    """Find the family of a model by its class name.

    Raises: UnsupportedError: no family knows the class, or it is one that is known not to work.
    """
    name = type(model).__name__
    for family in families():
        if name in family.classes:
            return family
    if name in REFUSED:
        raise UnsupportedError(f"{name} is not supported: {REFUSED[name]}. Use a model of another family.")
    known = ", ".join(c for family in families() for c in family.classes)
    raise UnsupportedError(f"{name} is not supported; supported model classes: {known}.")
