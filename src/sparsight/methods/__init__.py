"""The published methods, one per file, and baselines."""

from sparsight.methods.baselines import Pool, Random, Uniform
from sparsight.methods.downscale import Downscale
from sparsight.methods.method import Method
from sparsight.methods.sparsevlm import SparseVLM
from sparsight.methods.sparsevlm_plus import SparseVLMPlus

__all__ = ["Downscale", "Pool", "Random", "SparseVLM", "SparseVLMPlus", "Uniform", "methods"]


def methods() -> tuple[type[Method], ...]:
    """Return every method that ships, in the order of the documentation."""
    return (SparseVLM, SparseVLMPlus, Random, Uniform, Pool, Downscale)
