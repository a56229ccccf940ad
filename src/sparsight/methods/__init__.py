"""The published methods, one per file, and baselines."""

from sparsight.methods.baselines import Pool, Random, Uniform
from sparsight.methods.divprune import DivPrune
from sparsight.methods.downscale import Downscale
from sparsight.methods.fastv import FastV
from sparsight.methods.hiprune import HiPrune
from sparsight.methods.method import Method
from sparsight.methods.pyramiddrop import PyramidDrop
from sparsight.methods.scope import SCOPE
from sparsight.methods.sparsevlm import SparseVLM
from sparsight.methods.sparsevlm_plus import SparseVLMPlus
from sparsight.methods.tops import TOPS
from sparsight.methods.visionzip import VisionZip
from sparsight.methods.vispruner import VisPruner
from sparsight.methods.vscan import VScan

__all__ = [
    "DEFAULT",
    "SCOPE",
    "TOPS",
    "DivPrune",
    "Downscale",
    "FastV",
    "HiPrune",
    "Pool",
    "PyramidDrop",
    "Random",
    "SparseVLM",
    "SparseVLMPlus",
    "Uniform",
    "VScan",
    "VisPruner",
    "VisionZip",
    "default_method",
    "methods",
]

DEFAULT: type[Method] = SparseVLM  # the recommended method


def methods() -> tuple[type[Method], ...]:
    """Return every method that ships, in the order of the documentation."""
    inside = (SparseVLM, SparseVLMPlus, FastV, PyramidDrop)
    before = (HiPrune, VisPruner, VisionZip, DivPrune, SCOPE)
    return (*inside, *before, VScan, TOPS, Random, Uniform, Pool, Downscale)


def default_method(retain: float) -> Method:
    """Return the recommended method for a budget that is given without a method.

    Args: retain: an int is a count of visual tokens per sample, a float in (0, 1] the fraction.
    Raises: BudgetError: it is neither.
    """
    return DEFAULT(retain=retain)
