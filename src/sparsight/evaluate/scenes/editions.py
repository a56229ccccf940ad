"""The two editions of the suite: their parts, and the seeds of the splits that ship."""

from dataclasses import replace
from typing import Literal

from sparsight.errors import SettingError
from sparsight.evaluate.scenes.draft import Dice, Draft, draft_suite, first_edition
from sparsight.evaluate.scenes.scene import Pool
from sparsight.evaluate.scenes.second import second_edition

QUALITY = 78  # of WebP, second edition
Edition = Literal[1, 2]
_SHIPPED: dict[str, tuple[int, Pool, Edition]] = {
    "scenes-1": (0, "test", 1),
    "scenes-2": (2, "test", 2),
    "scenes-2-dev": (2, "train", 2),
}


def compose_shipped(name: str) -> Draft:
    """Compose a suite that ships once more, by its name in `SUITES`."""
    seed, pool, edition = _SHIPPED[name]
    return compose_suite(seed, pool, edition=edition)


def compose_suite(seed: int, pool: Pool, share: float = 1.0, edition: Edition = 1) -> Draft:
    """Compose a suite of all families.

    Args:
        seed: of everything drawn.
        pool: which photographs may be used.
        share: of the full number of questions in each part, at least one.
        edition: 1 asks about large things, 2 about small ones.
    Raises: SettingError: an edition that does not exist, or a share that is not above 0 or asks for
        more questions than can be found.
    """
    if edition not in (1, 2):
        raise SettingError(f"edition={edition} does not exist; give 1 or 2.")
    dice = Dice(seed, pool)
    if edition == 1:
        return draft_suite(dice, first_edition(), share)
    draft = draft_suite(dice, second_edition(), share, repeats=False)
    return replace(draft, quality=QUALITY)
