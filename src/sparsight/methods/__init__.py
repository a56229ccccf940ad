"""The published methods, one per file."""

from sparsight.method import Method
from sparsight.methods.sparsevlm import SparseVLM
from sparsight.methods.sparsevlm_plus import SparseVLMPlus

__all__ = ["SparseVLM", "SparseVLMPlus", "methods"]


def methods() -> tuple[type[Method], ...]:
    """Return every method that ships, in the order of the documentation."""
    return (SparseVLM, SparseVLMPlus)
