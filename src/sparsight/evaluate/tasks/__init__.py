"""The benchmarks that SparseVLM's paper reports, from the folders that LLaVA's users have.

`catalogue` lists them, `data` reads them, `asking` asks them, `store` keeps the answers, `results`
scores them, and `published` sets published numbers beside.
"""

from sparsight.evaluate.tasks.catalogue import TASKS, find_tasks
from sparsight.evaluate.tasks.data import Sheet, read_sheets
from sparsight.evaluate.tasks.task import Item, Need, Task

__all__ = ["TASKS", "Item", "Need", "Sheet", "Task", "find_tasks", "read_sheets"]
