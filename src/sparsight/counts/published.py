"""Published counts: tokens kept at each site as absolute numbers, made for one size of sample.

Pure arithmetic: knows no model, no tensor and no method.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from sparsight.counts.schedule import PAPER_LAYERS
from sparsight.errors import BudgetError, SettingError, UnsupportedError

Settings = TypeVar("Settings")


def take_published(name: str, table: Mapping[int, Settings], retain: int) -> Settings:
    """Return the published counts, or other settings, of a budget.

    Args:
        name: of the method's class, for the message.
        table: budget -> tokens kept at each site, or other settings.
    Raises: BudgetError: the budget was not published.
    """
    if retain not in table:
        raise BudgetError(
            f"{name}.paper({retain!r}) was not published; choose {', '.join(map(str, table))}, or "
            f"{name}(retain=...)."
        )
    return table[retain]


def is_published(table: Mapping[int, object], retain: float | None, settings: object) -> bool:
    """Return whether settings are the published ones of a budget.

    Args:
        table: budget -> counts or other settings.
        retain: the method's budget.
        settings: of the method, as the table holds them.
    """
    return retain is not None and retain in table and table[int(retain)] == settings


def check_depth(name: str, retain: float | None, layers: int, *, published: bool) -> None:
    """Check that settings published for decoders of 32 layers are not used in one of another depth.

    Args:
        name: of the method's class, for the message.
        retain: the method's budget.
        layers: L, decoder layers of the model.
        published: whether sites and counts of the method are the published ones of the budget.
    Raises: UnsupportedError: they are, and L is not 32.
    """
    if published and layers != PAPER_LAYERS:
        raise UnsupportedError(
            f"{name}.paper({retain}) has the authors' settings for a decoder of {PAPER_LAYERS} "
            f"layers, this model has {layers}, and none were published for that; use "
            f"{name}(retain={retain}), which solves counts for any model (on the command line: "
            "leave --paper out)."
        )


def check_kept(kept: Sequence[int], sites: Sequence[int] | None) -> None:
    """Check that counts given for each site can be met one after the other.

    Raises: SettingError: they are not one for each site, one rises, or one keeps nothing.
    """
    if sites is None or len(kept) != len(sites) or min(kept, default=0) < 1:
        raise SettingError(
            f"kept={tuple(kept)} needs as many sites, each keeping at least 1; sites={sites}."
        )
    if list(kept) != sorted(kept, reverse=True):
        raise SettingError(
            f"kept={tuple(kept)} rises, and a site cannot bring tokens back; give counts that fall."
        )


def choose_kept(
    name: str, kept: tuple[int, ...] | None, retain: float | None, visual_tokens: int
) -> tuple[int, ...] | None:
    """Return the counts given for each site if a sample is to be pruned by them.

    Args:
        name: of the method's class, for the message.
        kept: tokens kept at each site, descending; None where counts are solved from `retain`.
        retain: the method's budget.
        visual_tokens: V of the sample.
    Returns: `kept`; None where there are none, or where the sample has no more tokens than an int
        `retain` and keeps them all.
    Raises: BudgetError: the sample has fewer tokens than the first site is to keep.
    """
    if kept is None or (isinstance(retain, int) and retain >= visual_tokens):
        return None
    if kept[0] > visual_tokens:
        raise BudgetError(
            f"kept={kept} is made for more than the sample's {visual_tokens} visual tokens; leave "
            f"it out, and {name}(retain=...) solves counts for any number."
        )
    return kept
