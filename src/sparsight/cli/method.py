"""From words on the command line to a method."""

import re
from dataclasses import fields
from typing import Any

from rich.table import Table

from sparsight.counts.budget import check_retain
from sparsight.errors import BudgetError, SettingError, UnsupportedError
from sparsight.methods import methods
from sparsight.methods.method import Method


def cli_name(method: type[Method]) -> str:
    """Return a method's name on the command line; one that has none is called by its class: NormTopK is norm-top-k."""
    return (
        vars(method).get("name")
        or re.sub(r"(?<=[A-Z])(?=[A-Z][a-z])", "-", method.__name__).lower()
    )


def read_retain(text: str) -> float:
    """Read a budget: a whole number is a count, any other number the fraction kept.

    Raises: BudgetError: neither.
    """
    try:
        retain = read_number(text)
    except ValueError:
        raise BudgetError(
            f"retain={text!r} is no number; give a count >= 1 or a fraction in (0, 1]."
        ) from None
    check_retain(retain)
    return retain


def read_setting(method: type[Method], text: str) -> tuple[str, Any]:
    """Read one setting of a method, such as sites=3/7/15, recycle=false or seed=1.

    Raises: SettingError: no such setting, or not a number or word of its kind.
    """
    field, equals, value = (part.strip() for part in text.partition("="))
    known = {f.name: f for f in fields(method) if f.name != "retain"}
    if field not in known or not equals:
        raise SettingError(
            f"setting {text!r} is not known; {cli_name(method)} has {', '.join(known)}, as name=value."
        )
    if value in ("true", "false"):
        return field, value == "true"
    try:
        if isinstance(known[field].default, bool):
            raise ValueError
        if "tuple" in str(known[field].type):
            return field, tuple(int(number) for number in value.split("/"))
        if isinstance(known[field].default, str):
            return field, value
        return field, read_number(value)
    except ValueError:
        raise SettingError(
            f"{text!r} cannot be read; give a number, true, false, or layers as 3/7/15."
        ) from None


def read_number(text: str) -> float:
    """Read a whole or broken number.

    Raises: ValueError: it is neither.
    """
    return int(text) if re.fullmatch(r"[+-]?\d+", text.strip()) else float(text)


def read_method(name: str, retain: str, paper: bool) -> Method:
    """Return the method of a name at a budget; settings may follow the name, as in sparsevlm:sites=3/7/15.

    Raises:
        SettingError: no such method or setting, or a setting given twice.
        BudgetError: a budget that says nothing, or was not published although `paper` asks for it.
        UnsupportedError: the method has no published settings.
    """
    name, *settings = name.split(":")
    known = {cli_name(method): method for method in methods()}
    plain = {key.replace("-", ""): method for key, method in known.items()}
    method = plain.get(name.lower().replace("-", "").replace("_", ""))
    if method is None:
        raise SettingError(f"method {name!r} is not known; choose one of {', '.join(known)}.")
    budget = read_retain(retain)
    if not paper:
        given = [read_setting(method, text) for text in settings]
        names = [field for field, _ in given]
        twice = next((field for field in names if names.count(field) > 1), None)
        if twice is not None:
            raise SettingError(
                f"setting {twice!r} is given twice in {':'.join(settings)}; give it once."
            )
        return method(retain=budget, **dict(given))
    if settings:
        raise SettingError(
            f"the published settings leave nothing to choose; leave {':'.join(settings)} out."
        )
    preset = getattr(method, "paper", None)
    if preset is None:
        raise UnsupportedError(f"{cli_name(method)} has no published settings; leave --paper out.")
    found: Method = preset(budget)
    return found


def methods_table() -> Table:
    """Return the table of the methods that ship, for people."""
    table = Table("name", "class", "what it does", "published budgets")
    for method in methods():
        budgets = ", ".join(map(str, method.published)) or "-"
        table.add_row(cli_name(method), method.__name__, method.summary, budgets)
    return table
