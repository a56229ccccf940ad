"""Evaluation: scores the answers to a suite's questions, dense and at each budget.

An evaluation writes every answer to the disk and can be continued.

```python
settings = Settings((DENSE, Configuration("sparsevlm", SparseVLM(retain=192))), out=Path("results"))
results = run(model, processor, settings)
```
"""

from sparsight.evaluate.asking import cast_weights
from sparsight.evaluate.evidence import find_evidence_tokens, measure_recall
from sparsight.evaluate.record import Record
from sparsight.evaluate.runner import run
from sparsight.evaluate.settings import CONTROLS, DENSE, Configuration, Settings
from sparsight.evaluate.store import Store, open_store, read_records

__all__ = [
    "CONTROLS",
    "DENSE",
    "Configuration",
    "Record",
    "Settings",
    "Store",
    "cast_weights",
    "find_evidence_tokens",
    "measure_recall",
    "open_store",
    "read_records",
    "run",
]
