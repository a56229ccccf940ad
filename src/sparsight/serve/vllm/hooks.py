"""Checks that vLLM still has what we build on. Knows no vLLM."""

import inspect
from collections.abc import Mapping

from sparsight.errors import UnsupportedError


def require_hooks(owner: type, hooks: Mapping[str, tuple[str, ...]]) -> None:
    """Check the methods of a class of vLLM that we override or call, and their argument names.

    Args:
        owner: the class.
        hooks: name of each method, and the names of arguments that it must have.
    Raises: UnsupportedError: a method or an argument is missing.
    """
    for name, wanted in hooks.items():
        method = getattr(owner, name, None)
        if method is None:
            raise UnsupportedError(
                f"vLLM's {owner.__name__} has no {name}(), which sparsight builds on; install a "
                "release of vLLM that docs/vllm.md names."
            )
        missing = [key for key in wanted if key not in inspect.signature(method).parameters]
        if missing:
            raise UnsupportedError(
                f"{name}() of vLLM's {owner.__name__} takes no {', '.join(missing)}, which "
                "sparsight builds on; install a release of vLLM that docs/vllm.md names."
            )
