"""Imports packages of extras when they are needed, and says what to install where they are not."""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from sparsight.errors import UnsupportedError

EXTRAS = {"pyarrow": "parquet", "pypdfium2": "pdf", "av": "video", "ray": "scale"}


def check_package(name: str, what: str) -> None:
    """Check that a package of an extra is installed, without importing it.

    Args:
        name: of the package, a key of EXTRAS.
        what: needs it, for the message.

    Raises: UnsupportedError: it is not installed.
    """
    if name not in sys.modules and find_spec(name) is None:
        raise UnsupportedError(
            f'{what} needs {name}, not installed here; run: pip install "sparsight[{EXTRAS[name]}]"'
        )


def load_package(name: str, what: str, part: str = "") -> Any:
    """Return a package of an extra, or one of its modules.

    Args:
        name: of the package, a key of EXTRAS.
        what: needs it, for the message.
        part: name of the module inside the package, "" for the package itself.

    Raises: UnsupportedError: it is not installed.
    """
    check_package(name, what)
    return import_module(f"{name}.{part}" if part else name)
