"""The command line: `sparsight ask`, `eval`, `serve`, `prepare`, `convert-mgm` and the tables."""

from sparsight.cli import convert as convert  # adds its command to the app
from sparsight.cli import serve as serve  # adds its command to the app
from sparsight.cli.app import app, main

__all__ = ["app", "main"]
