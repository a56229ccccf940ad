"""Engines broken on purpose, each in one way that a check must notice."""

from dataclasses import replace

from sparsight.engine.cache import LedgerLayer
from sparsight.sequence.compactor import Compactor


def sees_fillers(monkeypatch):
    """Rows that are shorter than others attend to what fills them up."""
    plain = Compactor._stack

    def stack(self, *args):
        result = plain(self, *args)
        self.batch = replace(self.batch, valid=None)
        return result

    monkeypatch.setattr(Compactor, "_stack", stack)


def tells_the_physical_length(monkeypatch):
    """Caches report how much they store."""
    monkeypatch.setattr(LedgerLayer, "get_seq_length", lambda self: self.stored)
