"""sparsight makes vision-language models look at fewer visual tokens."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsight.chat import Chat
    from sparsight.errors import SparsightError
    from sparsight.methods import SparseVLM, SparseVLMPlus, Sparsight
    from sparsight.methods.method import Method
    from sparsight.run import Run, run_of
    from sparsight.sparsify import sparsify

__version__ = "0.1.0"

__all__ = [
    "Chat",
    "Method",
    "Run",
    "SparseVLM",
    "SparseVLMPlus",
    "Sparsight",
    "SparsightError",
    "__version__",
    "run_of",
    "sparsify",
]

_HOMES = {
    "Chat": "chat",
    "Method": "methods.method",
    "Run": "run",
    "SparseVLM": "methods",
    "SparseVLMPlus": "methods",
    "Sparsight": "methods",
    "SparsightError": "errors",
    "run_of": "run",
    "sparsify": "sparsify",
}


class _Package(ModuleType):
    """The package as a module that imports each name when it is first read.

    torch and transformers take seconds to import, and `sparsight --help` needs neither.
    """

    def __getattr__(self, name: str) -> Any:
        if name in _HOMES:
            value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
            self.__dict__[name] = value
            return value
        if not name.startswith("_"):
            try:
                return import_module(f"{__name__}.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"{__name__}.{name}":
                    raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, but keep `sparsify` the function.

        When the module `sparsight.sparsify` is imported, Python would set the module under the
        name of the function.
        """
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
