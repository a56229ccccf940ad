"""Reads a method, its settings and its budget from the command line."""

import re
from dataclasses import Field, fields, replace
from typing import Any

from sparsight.cli.own import is_own, load_own
from sparsight.counts.budget import check_retain
from sparsight.errors import BudgetError, SettingError, UnsupportedError
from sparsight.methods import methods
from sparsight.methods.method import Method

NO_BOUND = "none"  # as a budget: what an adaptive method finds, however much that is


def cli_name(method: type[Method]) -> str:
    """Return a method's name on the command line.

    A method without a name is called by its class: NormTopK is norm-top-k.
    """
    name = vars(method).get("name")
    return (
        name
        or re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", method.__name__).lower()
    )


def read_retain(text: str) -> float:
    """Return a budget: an int for a whole number (a count), else a float (the fraction kept).

    Raises:
        BudgetError: the text is no number, or the budget is out of range.
    """
    try:
        retain = read_number(text)
    except ValueError:
        raise BudgetError(
            f"retain={text!r} is no number; give a count >= 1 or a fraction in (0, 1]."
        ) from None
    check_retain(retain)
    return retain


def read_budget(text: str) -> float | None:
    """Return a budget as `read_retain` does; None for "none", which sets no bound.

    Raises:
        BudgetError: the text is neither.
    """
    return None if text.strip().lower() == NO_BOUND else read_retain(text)


def read_setting(method: type[Method], text: str) -> tuple[str, Any]:
    """Return name and value of one setting, such as sites=3/7/15, recycle=false or seed=1.

    Raises:
        SettingError: the method has no such setting, or the value is of another kind.
    """
    left, equals, right = text.partition("=")
    name, value = left.strip(), right.strip()
    settings = {field.name: field for field in fields(method) if field.name != "retain"}
    if name not in settings or not equals:
        raise SettingError(
            f"setting {text!r} is not known; {cli_name(method)} has {', '.join(settings)}, "
            "as name=value."
        )
    if isinstance(settings[name].default, Method):
        return name, _find_shipped(value)()
    try:
        return name, _read_value(settings[name], value)
    except ValueError:
        raise SettingError(
            f"{text!r} cannot be read; give a number, true, false, or layers as 3/7/15."
        ) from None


def _read_value(setting: Field[Any], text: str) -> Any:
    """Return the value of a setting; ValueError where the text is of another kind."""
    if text in ("true", "false"):
        return text == "true"
    if isinstance(setting.default, bool):
        raise ValueError
    if "tuple" in str(setting.type):
        return tuple(int(number) for number in text.split("/"))
    if isinstance(setting.default, str) or "Literal" in str(setting.type):
        return text
    return read_number(text)


def read_number(text: str) -> float:
    """Return an int for a whole number, else a float.

    Raises:
        ValueError: the text is no number.
    """
    return int(text) if re.fullmatch(r"[+-]?\d+", text.strip()) else float(text)


def read_method(name: str, retain: str, paper: bool) -> Method:
    """Return a method at a budget.

    Args:
        name: of the method, or file or module and class of an own one, as in my_file.py:NormTopK;
            settings may follow it, as in sparsevlm:sites=3/7/15, and those of its base, as in
            restore:base=sparsevlm:recycle=false.
        retain: the budget; "none" for no bound, which adaptive methods can do without.
        paper: whether the published settings are wanted, with those changed that follow the name.

    Raises:
        SettingError: no such method or setting, a setting given twice, or one that `paper` fixes.
        BudgetError: no such budget, or `paper` asks for one that was not published.
        UnsupportedError: the method has no published settings.
    """
    method, settings = find_method(name)
    budget = read_budget(retain)
    if paper:
        return _build_published(method, budget, settings)
    return method(retain=budget, **_read_settings(method, settings))


def _read_settings(method: type[Method], settings: list[str]) -> dict[str, Any]:
    """Return the settings of a method by name; what it has not itself is a setting of its base.

    Raises: SettingError: neither has such a setting, or one is given twice.
    """
    own = {field.name for field in fields(method)}
    built_on = "base" in own
    of_base = [text for text in settings if built_on and text.partition("=")[0].strip() not in own]
    pairs = [read_setting(method, text) for text in settings if text not in of_base]
    names = [field for field, _ in pairs]
    for field in names:
        if names.count(field) > 1:
            raise SettingError(
                f"setting {field!r} is given twice in {':'.join(settings)}; give it once."
            )
    values = dict(pairs)
    if of_base:
        base: Any = values.get("base", getattr(method, "base", None))
        values["base"] = replace(base, **_read_settings(type(base), of_base))
    return values


def find_method(text: str) -> tuple[type[Method], list[str]]:
    """Return the method that a text names, and the settings that follow its name.

    A name that ships is never taken for a module.

    Raises: SettingError: there is no such method.
    """
    words = text.split(":")
    if is_own(words) and _normalise(words[0]) not in _list_shipped():
        return load_own(words[0].strip(), words[1].strip()), words[2:]
    return _find_shipped(words[0]), words[1:]


def _normalise(name: str) -> str:
    """Return a name without what does not count: letter case, - and _."""
    return name.strip().lower().replace("-", "").replace("_", "")


def _list_shipped() -> dict[str, type[Method]]:
    """Return the methods that ship, by normalised name."""
    return {_normalise(cli_name(method)): method for method in methods()}


def _find_shipped(name: str) -> type[Method]:
    """Return the method that ships under a name.

    Raises: SettingError: there is none.
    """
    shipped = _list_shipped()
    if _normalise(name) in shipped:
        return shipped[_normalise(name)]
    names = ", ".join(map(cli_name, shipped.values()))
    raise SettingError(
        f"method {name!r} is not known; choose one of {names}, or name one of your own as "
        "my_file.py:Class or my_module:Class."
    )


def _build_published(method: type[Method], budget: float | None, settings: list[str]) -> Method:
    """Return the published settings of a budget, with those changed that leave its counts alone."""
    name = cli_name(method)
    preset = getattr(method, "paper", None)
    if preset is None:
        raise UnsupportedError(f"{name} has no published settings; leave --paper out.")
    changed = _read_settings(method, settings)
    fixed = [field for field in changed if field not in method.beside_paper]
    if fixed:
        others = ", ".join(sorted(method.beside_paper)) or "nothing"
        raise SettingError(
            f"--paper takes {fixed[0]} of {name} as it was published; leave {':'.join(settings)} "
            f"or --paper out. Beside it can be changed: {others}."
        )
    published: Method = preset(budget)
    return replace(published, **changed) if changed else published
