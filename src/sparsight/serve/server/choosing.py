"""Reads the field `sparsight` of a request: a method that ships, its budget, plain settings.

No name of a file, module or class is ever looked up: that would run code that a client names.
"""

from dataclasses import Field, fields
from typing import Any

from sparsight.errors import BudgetError, SettingError
from sparsight.methods import methods
from sparsight.methods.method import Method
from sparsight.serve.server.settings import Settings
from sparsight.serve.server.wire import Pruning

DENSE = "dense"
LONGEST = 64  # numbers of a setting that is a list
LARGEST = 2**31  # of a number in a setting
SHOWN = 60  # characters of what was given


def choose_method(pruning: Pruning, settings: Settings) -> Method | None:
    """Return the method that a request asks for; None for the dense model.

    Args:
        pruning: the request's field.
        settings: of the server, which hold the defaults.

    Raises:
        SettingError: no such method or setting, or a value out of range.
        BudgetError: no such budget.
    """
    if not pruning.model_fields_set:
        return settings.method
    if pruning.method == DENSE:
        if pruning.retain is not None or pruning.settings:
            raise SettingError("method 'dense' prunes nothing; leave retain and settings out.")
        return None
    kind = _find_kind(pruning.method, settings)
    budget = settings.retain if pruning.retain is None else _read_budget(pruning.retain)
    known = {field.name: field for field in fields(kind) if field.name != "retain"}
    values = {name: _read(kind, known, name, pruning.settings[name]) for name in pruning.settings}
    try:
        return kind(retain=budget, **values)
    except (SettingError, BudgetError):
        raise
    except (TypeError, ValueError, ArithmeticError) as error:
        raise SettingError(f"{kind.name} cannot take these settings: {error}.") from None


def _find_kind(name: str | None, settings: Settings) -> type[Method]:
    if name is not None:
        return find_shipped(name)
    if settings.method is None:
        raise SettingError("the server prunes nothing by default; give sparsight.method.")
    return type(settings.method)


def find_shipped(name: str) -> type[Method]:
    """Return the method that ships under a name.

    Raises: SettingError: there is none.
    """
    shipped = {method.name: method for method in methods()}
    wanted = name.strip().lower().replace("_", "-")
    if wanted not in shipped:
        names = ", ".join([DENSE, *shipped])
        raise SettingError(f"method {name[:SHOWN]!r} is not known; choose one of {names}.")
    return shipped[wanted]


def _read_budget(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BudgetError(
            f"retain={_show(value)} is no number; give a count >= 1 or a fraction in (0, 1]."
        )
    return value


def _read(kind: type[Method], known: dict[str, Field[Any]], name: str, value: Any) -> Any:
    """Return the value of one setting; a list becomes a tuple, the name of a base its method."""
    if name not in known:
        raise SettingError(
            f"setting {name[:SHOWN]!r} is not known; {kind.name} has {', '.join(known)}."
        )
    if isinstance(known[name].default, Method) and isinstance(value, str):
        return find_shipped(value)()
    if isinstance(value, list):
        return _read_list(name, value)
    if isinstance(value, str):
        return value[:SHOWN]
    if isinstance(value, bool) or (isinstance(value, int | float) and abs(value) <= LARGEST):
        return value
    raise SettingError(
        f"setting {name}={_show(value)} is refused; give a number, true, false, a word, or a list "
        "of whole numbers."
    )


def _read_list(name: str, values: list[Any]) -> tuple[int, ...]:
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
    if not whole or len(values) > LONGEST or any(abs(value) > LARGEST for value in values):
        raise SettingError(
            f"setting {name} is refused; give a list of at most {LONGEST} whole numbers."
        )
    return tuple(values)


def _show(value: Any) -> str:
    """Return the start of a value, without writing out what is large."""
    plain = isinstance(value, int | float | str | None)
    return repr(value)[:SHOWN] if plain else f"a {type(value).__name__}"
