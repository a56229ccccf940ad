"""The command line: `sparsight ask`, `prepare`, `methods`, `families`."""

from sparsight.cli.app import app, main

__all__ = ["app", "main"]
