"""Values of a run that each caller has for itself: a thread or an asyncio task does not see what another one set."""

import asyncio
from contextvars import ContextVar
from threading import get_ident
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

# written anew on each change and never changed in place: a context that was copied shares the
# mapping
_VALUES: ContextVar["WeakKeyDictionary[PerCaller[Any], tuple[Any, Any]] | None"] = ContextVar(
    "sparsight_values", default=None
)


class PerCaller(Generic[T]):
    """One value of one run.

    Args:
        value: what a caller reads that has set nothing.
        shared: whether such a caller reads the newest value that anyone has set instead. A thread
            that streams the answer of another one finds that one's numbers so.
        inherited: whether a task or a thread that was started by a caller with a copy of its
            context, as asyncio does, goes on with the caller's value. If not, it has set nothing
            yet.
    """

    def __init__(self, value: T, *, shared: bool, inherited: bool) -> None:
        self._newest, self._shared, self._inherited = value, shared, inherited

    def get(self) -> T:
        """Return the caller's own value."""
        values = _VALUES.get()
        setter, value = (
            (None, self._newest) if values is None else values.get(self, (None, self._newest))
        )
        if setter is not None and not self._inherited and setter != _caller():
            return self._newest
        found: T = value
        return found

    def set(self, value: T) -> None:
        """Set the value of this caller."""
        values: WeakKeyDictionary[PerCaller[Any], tuple[Any, Any]] = WeakKeyDictionary(
            _VALUES.get() or {}
        )
        values[self] = _caller(), value
        _VALUES.set(values)
        if self._shared:
            self._newest = value


def _caller() -> tuple[int, int]:
    """Return what tells one caller from another: its thread, and its task if it is one."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        task = None
    return get_ident(), id(task)
