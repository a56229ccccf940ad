"""The published methods, one per file, baselines, and what own methods are made of."""

from sparsight.methods.autoprune import AutoPrune
from sparsight.methods.baselines import Pool, Random, Uniform
from sparsight.methods.cdpruner import CDPruner
from sparsight.methods.dart import DART
from sparsight.methods.divprune import DivPrune
from sparsight.methods.downscale import Downscale
from sparsight.methods.eadp import EADP
from sparsight.methods.evs import EVS
from sparsight.methods.fastervlm import FasterVLM
from sparsight.methods.fastv import FastV
from sparsight.methods.hiprune import HiPrune
from sparsight.methods.holov import HoloV
from sparsight.methods.merged import merge_rest
from sparsight.methods.method import Method
from sparsight.methods.mmtok import MMTok
from sparsight.methods.parts.choosers import top_k
from sparsight.methods.pixelprune import PixelPrune
from sparsight.methods.prumerge import PruMerge
from sparsight.methods.prumerge_plus import PruMergePlus
from sparsight.methods.prunesid import PruneSID
from sparsight.methods.pyramiddrop import PyramidDrop
from sparsight.methods.restore import Restore
from sparsight.methods.scope import SCOPE
from sparsight.methods.sieve import SIEVE
from sparsight.methods.sparsevlm import SparseVLM
from sparsight.methods.sparsevlm_plus import SparseVLMPlus
from sparsight.methods.sparsight import Sparsight
from sparsight.methods.tome import ToMe
from sparsight.methods.tops import TOPS
from sparsight.methods.vidcom2 import VidCom2
from sparsight.methods.view import Recycled, Selection, View
from sparsight.methods.visionzip import VisionZip
from sparsight.methods.vispruner import VisPruner
from sparsight.methods.vscan import VScan

__all__ = [
    "AutoPrune",
    "CDPruner",
    "DART",
    "DEFAULT",
    "DivPrune",
    "Downscale",
    "EADP",
    "EVS",
    "FastV",
    "FasterVLM",
    "HiPrune",
    "HoloV",
    "MMTok",
    "Method",
    "PixelPrune",
    "Pool",
    "PruMerge",
    "PruMergePlus",
    "PruneSID",
    "PyramidDrop",
    "Random",
    "Recycled",
    "Restore",
    "SCOPE",
    "SIEVE",
    "Selection",
    "SparseVLM",
    "SparseVLMPlus",
    "Sparsight",
    "TOPS",
    "ToMe",
    "Uniform",
    "VScan",
    "VidCom2",
    "View",
    "VisPruner",
    "VisionZip",
    "default_method",
    "merge_rest",
    "methods",
    "top_k",
]

DEFAULT: type[Method] = Sparsight  # the recommended method


def methods() -> tuple[type[Method], ...]:
    """Return every method that ships, in the order of the documentation."""
    own = (Sparsight, SparseVLM, SparseVLMPlus)
    in_decoder = (FastV, PyramidDrop, SIEVE, DART, AutoPrune)
    in_encoder = (ToMe, PixelPrune)
    by_encoder = (HiPrune, FasterVLM, VisPruner, VisionZip, PruMerge, PruMergePlus)
    by_variety = (HoloV, PruneSID, DivPrune, SCOPE)
    by_text = (CDPruner, MMTok, EADP)
    both = (VScan, TOPS)
    videos = (EVS, VidCom2)
    add_ons = (Restore,)
    baselines = (Random, Uniform, Pool, Downscale)
    return (
        *own,
        *in_decoder,
        *in_encoder,
        *by_encoder,
        *by_variety,
        *by_text,
        *both,
        *videos,
        *add_ons,
        *baselines,
    )


def default_method(retain: float) -> Method:
    """Return the recommended method for a budget that is given without a method.

    Args: retain: an int is a count of visual tokens per sample, a float in (0, 1] the fraction.
    Raises: BudgetError: it is neither.
    """
    return DEFAULT(retain=retain)
