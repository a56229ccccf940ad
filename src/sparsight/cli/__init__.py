"""The command line: `sparsight ask`, `run`, `eval`, `serve`, `prepare` and others."""

from sparsight.cli import batch as batch  # adds its command to the app
from sparsight.cli import convert as convert
from sparsight.cli import evaluating as evaluating
from sparsight.cli import serve as serve  # adds its command to the app
from sparsight.cli.app import app, main

__all__ = ["app", "main"]
