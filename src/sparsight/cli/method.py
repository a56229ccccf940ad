"""From words on the command line to a method."""

import re

from sparsight.budget import check_retain
from sparsight.errors import BudgetError, SettingError, UnsupportedError
from sparsight.method import Method
from sparsight.methods import methods


def cli_name(method: type[Method]) -> str:
    """Return a method's name on the command line: SparseVLMPlus is sparsevlm-plus."""
    return re.sub(r"(?<=[A-Z])(?=[A-Z][a-z])", "-", method.__name__).lower()


def read_retain(text: str) -> float:
    """Read a budget: a whole number is a count, any other number the fraction kept.

    Raises: BudgetError: neither.
    """
    try:
        retain = int(text) if re.fullmatch(r"[+-]?\d+", text.strip()) else float(text)
    except ValueError:
        raise BudgetError(f"retain={text!r} is no number; give a count >= 1 or a fraction in (0, 1].") from None
    check_retain(retain)
    return retain


def read_method(name: str, retain: str, paper: bool) -> Method:
    """Return the method of a name at a budget.

    Raises:
        SettingError: no such method.
        BudgetError: a budget that says nothing, or was not published although `paper` asks for it.
        UnsupportedError: the method has no published settings.
    """
    known = {cli_name(method): method for method in methods()}
    plain = {key.replace("-", ""): method for key, method in known.items()}
    method = plain.get(name.lower().replace("-", "").replace("_", ""))
    if method is None:
        raise SettingError(f"method {name!r} is not known; choose one of {', '.join(known)}.")
    budget = read_retain(retain)
    if not paper:
        return method(retain=budget)
    preset = getattr(method, "paper", None)
    if preset is None:
        raise UnsupportedError(f"{cli_name(method)} has no published settings; leave --paper out.")
    found: Method = preset(budget)
    return found
