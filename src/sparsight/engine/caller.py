"""Values of a run that each caller has for itself: a thread or an asyncio task does not see what another one set."""

from contextvars import ContextVar
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

# written anew on each change and never changed in place: a context that was copied shares the mapping
_VALUES: ContextVar["WeakKeyDictionary[PerCaller[Any], Any] | None"] = ContextVar("sparsight_values", default=None)


class PerCaller(Generic[T]):
    """One value of one run.

    Args:
        value: what a caller reads that has set nothing.
        shared: whether such a caller reads the newest value that anyone has set instead. A thread that streams the
            answer of another one finds that one's numbers so.
    """

    def __init__(self, value: T, *, shared: bool) -> None:
        self._newest, self._shared = value, shared

    def get(self) -> T:
        """Return the caller's own value."""
        values = _VALUES.get()
        found: T = self._newest if values is None else values.get(self, self._newest)
        return found

    def set(self, value: T) -> None:
        """Set the value of this caller."""
        values: WeakKeyDictionary[PerCaller[Any], Any] = WeakKeyDictionary(_VALUES.get() or {})
        values[self] = value
        _VALUES.set(values)
        if self._shared:
            self._newest = value
