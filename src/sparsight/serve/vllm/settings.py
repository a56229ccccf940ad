"""What a user sets: method and budget of a server, and the budget of one request. No vLLM here.

The server's part is the entry `sparsight` of vLLM's `hf_overrides`, which becomes an attribute of
the model's config. A request's part are entries of `mm_processor_kwargs`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from sparsight.counts.budget import check_retain
from sparsight.errors import BudgetError, SettingError
from sparsight.methods import CDPruner, DivPrune, Sparsight, Uniform, methods
from sparsight.methods.method import Method, Space

ENTRY = "sparsight"  # of the config
PREFIX = "sparsight_"  # of all our entries in a request
RETAIN = "sparsight_retain"  # the one that a client may send
GUIDE = "sparsight_guide"  # set here, for the guiding words; no client may send it

KEYS = ("method", "retain", "settings")
OFFERED: dict[str, type[Method]] = {
    kind.name: kind for kind in (Sparsight, DivPrune, CDPruner, Uniform)
}
PRESETS: dict[str, dict[str, Any]] = {  # where the engine asks for another value than the default
    "sparsight": {"where": "input"},
    "divprune": {"centred": True},
}
FIXED = {  # settings that the engine decides
    "retain": "give it beside `settings`",
    "sites": "tokens are chosen before the decoder",
    "positions": "the engine numbers tokens as the model's family needs it",
    "tower": "no second model runs beside the engine's",
}
IN_DECODER = "methods inside the decoder cannot run in vLLM, whose layers share one block table"


@dataclass(frozen=True)
class Settings:
    """What holds for all requests of an engine.

    Args:
        method: of choosing tokens; its budget is not read.
        retain: kept of each image where a request says nothing: a count >= 1, or a fraction in
            (0, 1]; None for all.
    """

    method: Method
    retain: int | float | None = None

    @property
    def reads_text(self) -> bool:
        """Whether words of the request guide the choice."""
        return self.method.reads_question


def read_settings(config: Any, space: Space = "tokens") -> Settings:
    """Return the settings in a model's config.

    Args:
        config: of the model, with the entry `sparsight` if the user gave one.
        space: where tokens of the family are compared, for methods that leave it to the family.

    Raises:
        SettingError: an unknown key, method or setting, or a value out of range.
        BudgetError: the budget is out of range.
    """
    given = getattr(config, ENTRY, None)
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise SettingError(
            f"sparsight={given!r} is no table; give {{'method': 'sparsight', 'retain': 64}}."
        )
    unknown = sorted(map(str, given.keys() - set(KEYS)))
    if unknown:
        raise SettingError(f"sparsight: {unknown} are not known; give some of {', '.join(KEYS)}.")
    retain = given.get("retain")
    method = build_method(given.get("method", "sparsight"), given.get("settings"))
    return Settings(method.for_space(space), None if retain is None else check_retain(retain))


def build_method(name: object, settings: object = None) -> Method:
    """Return a method by its name, with settings.

    Args:
        name: one of OFFERED.
        settings: settings of the method by name, or None.
    Raises: SettingError: no such method here, or no such setting.
    """
    names = ", ".join(OFFERED)
    if not isinstance(name, str) or name not in OFFERED:
        known = {method.name for method in methods()}
        why = f"does not run in vLLM ({IN_DECODER})" if str(name) in known else "is not known"
        raise SettingError(f"method {name!r} {why}; choose one of {names}.")
    kind = OFFERED[name]
    given = {} if settings is None else settings
    if not isinstance(given, Mapping):
        raise SettingError(f"settings={given!r} are no table; give {{'space': 'tokens'}}.")
    allowed = {field.name for field in fields(kind)} - FIXED.keys()
    for key in given:
        if key not in allowed:
            why = FIXED.get(key, f"give some of {', '.join(sorted(allowed))}")
            raise SettingError(f"setting {key!r} of {name} cannot be given in vLLM: {why}.")
    method = kind(retain=1.0, **{**PRESETS.get(name, {}), **given})
    if isinstance(method, Sparsight) and method.where != "input":
        raise SettingError(f"where={method.where!r} cuts in the decoder too, and {IN_DECODER}.")
    return method


def read_budget(request: Mapping[str, Any], settings: Settings) -> int | float | None:
    """Return what a request keeps of each image: its own budget, or that of the engine.

    Args: request: the `mm_processor_kwargs` of a request.

    Raises:
        SettingError: an entry of ours that is not known, or that no client may send.
        BudgetError: the budget is neither a count >= 1 nor a fraction in (0, 1].
    """
    for key in request:
        if str(key).startswith(PREFIX) and key != RETAIN:
            raise SettingError(f"mm_processor_kwargs: {key!r} is not known; give {RETAIN!r}.")
    if RETAIN not in request:
        return settings.retain
    if request[RETAIN] is None:
        raise BudgetError(
            f"{RETAIN}=None is no number; give a count >= 1 or a fraction in (0, 1], or leave it "
            "out."
        )
    return check_retain(request[RETAIN])
