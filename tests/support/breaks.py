"""Engines broken on purpose, each in one way that a check must notice."""

from sparsight.engine.ledger import LedgerLayer
from sparsight.sequence.compactor import SitePruning


def sees_fillers(monkeypatch):
    """Rows that are shorter than others attend to what fills them up."""
    monkeypatch.setattr(SitePruning, "_read_valid", lambda *_: None)


def tells_the_physical_length(monkeypatch):
    """Caches report how much they store."""
    monkeypatch.setattr(LedgerLayer, "get_seq_length", lambda self: self.stored)
