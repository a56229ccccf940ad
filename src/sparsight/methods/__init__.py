"""The published methods, one per file, and baselines."""

from sparsight.methods.autoprune import AutoPrune
from sparsight.methods.baselines import Pool, Random, Uniform
from sparsight.methods.dart import DART
from sparsight.methods.divprune import DivPrune
from sparsight.methods.downscale import Downscale
from sparsight.methods.fastv import FastV
from sparsight.methods.hiprune import HiPrune
from sparsight.methods.method import Method
from sparsight.methods.scope import SCOPE
from sparsight.methods.sieve import SIEVE
from sparsight.methods.sparsevlm import SparseVLM
from sparsight.methods.sparsevlm_plus import SparseVLMPlus
from sparsight.methods.visionzip import VisionZip
from sparsight.methods.vispruner import VisPruner

__all__ = [
    "DART",
    "DEFAULT",
    "SCOPE",
    "SIEVE",
    "AutoPrune",
    "DivPrune",
    "Downscale",
    "FastV",
    "HiPrune",
    "Pool",
    "Random",
    "SparseVLM",
    "SparseVLMPlus",
    "Uniform",
    "VisPruner",
    "VisionZip",
    "default_method",
    "methods",
]

DEFAULT: type[Method] = SparseVLM  # the recommended method


def methods() -> tuple[type[Method], ...]:
    """Return every method that ships, in the order of the documentation."""
    published = (FastV, DART, AutoPrune, SIEVE, HiPrune, VisPruner, VisionZip, DivPrune, SCOPE)
    return (SparseVLM, SparseVLMPlus, *published, Random, Uniform, Pool, Downscale)


def default_method(retain: float) -> Method:
    """Return the recommended method for a budget that is given without a method.

    Args: retain: an int is a count of visual tokens per sample, a float in (0, 1] the fraction.
    Raises: BudgetError: it is neither.
    """
    return DEFAULT(retain=retain)
