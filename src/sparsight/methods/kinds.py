"""Checks that settings are of the kinds that their fields are annotated with: bool, int, float."""

import math
import numbers
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any

from sparsight.errors import SettingError

LARGEST = 2**63 - 1  # that a tensor holds
ELSEWHERE = ("retain", "sites", "positions")  # each has a check of its own


def check_kinds(settings: object) -> None:
    """Check the settings of a frozen dataclass, and turn NumPy's numbers into Python's.

    A field of float takes an int too, and keeps it one where a tensor can hold it, as some settings
    are counts or shares.
    Fields of other types, and those in ELSEWHERE, are left as they are.

    Raises: SettingError: a setting is of another kind, or no finite number.
    """
    for field in fields(settings):  # type: ignore[arg-type]  # a dataclass
        kind, _, none = _name_type(field).partition("|")
        value = getattr(settings, field.name)
        if field.name in ELSEWHERE or kind not in READERS or none not in ("", "None"):
            continue
        if value is None and none:
            continue
        read, wanted = READERS[kind]
        checked = read(value)
        if checked is None:
            wanted += ", or None" if none else ""
            raise SettingError(f"{field.name}={value!r} is out of range; give {wanted}.")
        object.__setattr__(settings, field.name, checked)


def _name_type(field: Field[Any]) -> str:
    """Return a field's annotation as it is written, without spaces."""
    kind: object = field.type
    return kind.__name__ if isinstance(kind, type) else str(kind).replace(" ", "")


def _read_bool(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _read_int(value: object) -> int | None:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    number: int | None = int(value) if whole else None  # type: ignore[call-overload]
    return number if number is not None and abs(number) <= LARGEST else None


def _read_float(value: object) -> float | None:
    whole = _read_int(value)
    if whole is not None:
        return whole
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


# by the name of a type: returns a value of it, or None; and what is asked for
READERS: dict[str, tuple[Callable[[object], float | None], str]] = {
    "bool": (_read_bool, "True or False"),
    "int": (_read_int, "an int of at most 64 bits"),
    "float": (_read_float, "a finite number"),
}
