"""The command line: `sparsight ask`, `run`, `eval`, `serve`, `prepare`, `methods` and others."""

from sparsight.cli import batch as batch  # adds its command to the app
from sparsight.cli import serve as serve  # adds its command to the app
from sparsight.cli.app import app, main

__all__ = ["app", "main"]
