"""Evaluation: what a suite's answers are worth dense and at each budget, resumable and question by question.

```python
settings = Settings((DENSE, Configuration("sparsevlm", SparseVLM(retain=192))), out=Path("results"))
found = run(model, processor, settings)
```
"""

from sparsight.evaluate.asking import cast_weights
from sparsight.evaluate.evidence import evidence_tokens, recalls
from sparsight.evaluate.hard import hard_for_downscaling, mark_hard
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
    "evidence_tokens",
    "hard_for_downscaling",
    "mark_hard",
    "open_store",
    "read_records",
    "recalls",
    "run",
]
