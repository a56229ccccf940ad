"""Settings of the methods before the decoder that make no sense are refused when they are built."""

import pytest

from sparsight.errors import BudgetError, SettingError, UnsupportedError
from sparsight.methods import (
    EVS,
    FasterVLM,
    HoloV,
    PruMerge,
    PruMergePlus,
    PruneSID,
    VidCom2,
)

METHODS = (FasterVLM, PruMerge, PruMergePlus, HoloV, PruneSID, EVS, VidCom2)
BY_SCORE = (FasterVLM, PruMerge, PruMergePlus, HoloV, PruneSID)
WRONG = [
    (HoloV, {"strips": 0}, "strips=0 is out of range; give an int >= 1, or None"),
    (PruMerge, {"level": "rank"}, "level='rank' is not known; choose one of 'count', 'outliers'"),
    (PruMerge, {"merge": "mean"}, "merge='mean' is not known; choose one of 'features', 'tokens'"),
    (PruMerge, {"block": -2}, "block=-2 is out of range; give an int >= -1"),
    (PruMerge, {"block": 0.5}, "block=0.5 is out of range; give an int"),
    (PruMerge, {"neighbours": -1}, "neighbours=-1 is out of range; give an int >= 0"),
    (PruMergePlus, {"important": 1.5}, r"important=1.5 is out of range; give a share in \[0, 1\]"),
    (PruneSID, {"score": "rank"}, "choose one of 'class', 'received', 'loading'"),
    *((method, {"score": "text"}, "score='text' is not known; choose") for method in BY_SCORE),
    *((method, {"sites": (2,)}, r"works on the input alone; sites=\(2,\)") for method in METHODS),
]


@pytest.mark.parametrize(("method", "settings", "message"), WRONG)
def test_settings_out_of_range(method, settings, message):
    with pytest.raises(SettingError, match=message):
        method(retain=0.5, **settings)


@pytest.mark.parametrize("method", METHODS)
def test_no_bound_is_for_outliers_alone(method):
    with pytest.raises(BudgetError, match="retain=None sets no bound"):
        method(retain=None)
    if method.adaptive:
        assert method(retain=None, level="outliers").retain is None


@pytest.mark.parametrize("method", METHODS)
def test_published_budgets(method):
    for budget in method.published:
        own = method.paper(budget)
        assert (own.retain, own.positions) == (budget, "renumber")
    if method.published:
        with pytest.raises(BudgetError, match=r"paper\(100\) was not published; choose"):
            method.paper(100)
    else:
        assert not hasattr(method, "paper")


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_layout_is_refused(method):
    with pytest.raises(UnsupportedError, match=f"{method.__name__} needs the rows and columns"):
        method(retain=0.5).plan(36, 8)
    assert not method(retain=1.0).plan(36, 8).prunes
