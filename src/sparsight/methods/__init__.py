"""The published methods, one per file, baselines, and what own methods are made of."""

from sparsight.methods.baselines import Pool, Random, Uniform
from sparsight.methods.divprune import DivPrune
from sparsight.methods.downscale import Downscale
from sparsight.methods.fastv import FastV
from sparsight.methods.hiprune import HiPrune
from sparsight.methods.merged import merge_rest
from sparsight.methods.method import Method
from sparsight.methods.parts.choosers import top_k
from sparsight.methods.pixelprune import PixelPrune
from sparsight.methods.scope import SCOPE
from sparsight.methods.sparsevlm import SparseVLM
from sparsight.methods.sparsevlm_plus import SparseVLMPlus
from sparsight.methods.tome import ToMe
from sparsight.methods.view import Recycled, Selection, View
from sparsight.methods.visionzip import VisionZip
from sparsight.methods.vispruner import VisPruner

__all__ = [
    "DEFAULT",
    "SCOPE",
    "DivPrune",
    "Downscale",
    "FastV",
    "HiPrune",
    "Method",
    "PixelPrune",
    "Pool",
    "Random",
    "Recycled",
    "Selection",
    "SparseVLM",
    "SparseVLMPlus",
    "ToMe",
    "Uniform",
    "View",
    "VisPruner",
    "VisionZip",
    "default_method",
    "merge_rest",
    "methods",
    "top_k",
]

DEFAULT: type[Method] = SparseVLM  # the recommended method


def methods() -> tuple[type[Method], ...]:
    """Return every method that ships, in the order of the documentation."""
    published = (FastV, HiPrune, VisPruner, VisionZip, DivPrune, SCOPE, ToMe, PixelPrune)
    return (SparseVLM, SparseVLMPlus, *published, Random, Uniform, Pool, Downscale)


def default_method(retain: float) -> Method:
    """Return the recommended method for a budget that is given without a method.

    Args: retain: an int is a count of visual tokens per sample, a float in (0, 1] the fraction.
    Raises: BudgetError: it is neither.
    """
    return DEFAULT(retain=retain)
