"""The published methods, one per file, and baselines."""

from sparsight.methods.baselines import Pool, Random, Uniform
from sparsight.methods.downscale import Downscale
from sparsight.methods.method import Method
from sparsight.methods.sparsevlm import SparseVLM
from sparsight.methods.sparsevlm_plus import SparseVLMPlus

__all__ = [
    "DEFAULT",
    "Downscale",
    "Pool",
    "Random",
    "SparseVLM",
    "SparseVLMPlus",
    "Uniform",
    "default_method",
    "methods",
]

DEFAULT: type[Method] = SparseVLM  # the recommended method


def methods() -> tuple[type[Method], ...]:
    """Return every method that ships, in the order of the documentation."""
    return (SparseVLM, SparseVLMPlus, Random, Uniform, Pool, Downscale)


def default_method(retain: float) -> Method:
    """Return the recommended method for a budget that is given without a method.

    Args: retain: an int is a count of visual tokens per sample, a float in (0, 1] the fraction.
    Raises: BudgetError: it is neither.
    """
    return DEFAULT(retain=retain)
