"""Checks run.json of an evaluation on benchmarks: people edit files, and disks lose parts."""

import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sparsight.errors import InputError
from sparsight.evaluate.folder import RUN


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_seed(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_length(value: Any) -> bool:
    return value is None or _is_count(value)


def _are_methods(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


def _are_tasks(value: Any) -> bool:
    if not isinstance(value, dict) or not value:
        return False
    return all(isinstance(one, dict) and _is_count(one.get("questions")) for one in value.values())


_FIELDS: Mapping[str, Callable[[Any], bool]] = {  # of run.json, besides its kind
    "sparsight": _is_text,
    "model": _is_text,
    "dtype": _is_text,
    "seed": _is_seed,
    "max_new_tokens": _is_length,
    "tasks": _are_tasks,
    "methods": _are_methods,
}


def check_description(folder: Path, run: Mapping[str, Any]) -> None:
    """Raise InputError if the description of an evaluation lacks a field, or one is damaged."""
    damaged = [name for name, fits in _FIELDS.items() if name not in run or not fits(run[name])]
    if damaged:
        name = damaged[0]
        what = f"{name} {reprlib.repr(run[name])}" if name in run else f"no {name}"
        raise InputError(
            f"{folder / RUN} is damaged (it has {what}); restore the file, or run the command with "
            "--tasks again in another --out."
        )
