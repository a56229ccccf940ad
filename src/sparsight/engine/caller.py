"""Values of a run that each caller has for itself.

A caller is a thread or an asyncio task; it does not see what another caller has set.
"""

import asyncio
from contextvars import ContextVar
from threading import get_ident
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

# replaced on each change and never changed in place, because copies of a context share the mapping
_VALUES: ContextVar["WeakKeyDictionary[PerCaller[Any], tuple[Any, Any]] | None"] = ContextVar(
    "sparsight_values", default=None
)


class PerCaller(Generic[T]):
    """One value of one run.

    Args:
        value: what a caller reads that has not set the value.
        shared: whether such a caller reads the newest value that any caller has set instead. So a
            thread that streams an answer reads the numbers of the thread that generates it.
        inherited: whether a task or a thread that a caller starts with a copy of its context, as
            asyncio does, reads the value that the caller had set. If not, the new task or thread
            counts as a caller that has not set the value.
    """

    def __init__(self, value: T, *, shared: bool, inherited: bool) -> None:
        self._newest = value
        self._shared, self._inherited = shared, inherited

    def get(self) -> T:
        """Return the value that the caller has set, or what it reads without."""
        values = _VALUES.get()
        if values is None or self not in values:
            return self._newest
        setter, value = values[self]
        if not self._inherited and setter != _identify_caller():
            return self._newest
        own_value: T = value
        return own_value

    def set(self, value: T) -> None:
        """Set the value of this caller."""
        values: WeakKeyDictionary[PerCaller[Any], tuple[Any, Any]] = WeakKeyDictionary(
            _VALUES.get() or {}
        )
        values[self] = _identify_caller(), value
        _VALUES.set(values)
        if self._shared:
            self._newest = value


def _identify_caller() -> tuple[int, int]:
    """Return the ids of the running thread and of its asyncio task (or of None) as one key."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        task = None
    return get_ident(), id(task)
