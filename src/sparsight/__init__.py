"""sparsight makes vision-language models look at fewer visual tokens."""

from sparsight.chat import Chat
from sparsight.errors import SparsightError
from sparsight.method import Method
from sparsight.methods import SparseVLM, SparseVLMPlus
from sparsight.sparsify import Run, run_of, sparsify

__version__ = "0.1.0"

__all__ = ["Chat", "Method", "Run", "SparseVLM", "SparseVLMPlus", "SparsightError", "__version__", "run_of", "sparsify"]
