"""Families of vision-language models that sparsight hosts, and how to find a model's."""

from torch import nn

from sparsight.errors import UnsupportedError
from sparsight.families.family import Family, decoder_shape
from sparsight.families.llava import LLAVA

__all__ = ["Family", "decoder_shape", "families", "family_of"]


def families() -> tuple[Family, ...]:
    """Return every family that is hosted, in the order of the documentation."""
    return (LLAVA,)


def family_of(model: nn.Module) -> Family:
    """Find the family of a model by its class name.

    Raises: UnsupportedError: no family knows the class.
    """
    name = type(model).__name__
    for family in families():
        if name in family.classes:
            return family
    known = ", ".join(c for family in families() for c in family.classes)
    raise UnsupportedError(f"{name} is not supported; supported model classes: {known}.")
