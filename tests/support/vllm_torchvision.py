"""Lets torchvision's build for CUDA be imported beside torch's build for the CPU.

vLLM's LLaVA imports torchvision for its transforms, which need none of its compiled operators. Two
of these are named when torchvision is imported, and exist only in its library for CUDA. A line in a
`.pth` file, which `make vllm-test` writes, installs this before anything else.
"""

import sys
from importlib.abc import MetaPathFinder

MISSING = ("nms", "qnms")


class _DeclareFirst(MetaPathFinder):
    """Declares the operators when torchvision is about to be imported, and then steps aside."""

    held = None

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            from torch.library import Library

            type(self).held = Library("torchvision", "FRAGMENT")
            for name in MISSING:
                type(self).held.define(
                    f"{name}(Tensor boxes, Tensor scores, float limit) -> Tensor"
                )


sys.meta_path.insert(0, _DeclareFirst())
