"""The command line: `sparsight ask`, `eval`, `prepare`, `methods`, `models` and `modes`."""

from sparsight.cli.app import app, main

__all__ = ["app", "main"]
