"""The command line: `sparsight ask`, `eval`, `serve`, `prepare`, `methods`, `models`, `modes`."""

from sparsight.cli import evaluating as evaluating  # adds its command to the app
from sparsight.cli import serve as serve  # adds its command to the app
from sparsight.cli.app import app, main

__all__ = ["app", "main"]
