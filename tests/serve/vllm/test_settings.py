"""What a user may set in vLLM, and what is refused. Needs no vLLM."""

import math
from types import SimpleNamespace

import pytest

from sparsight.errors import BudgetError, SettingError
from sparsight.methods import methods
from sparsight.serve.vllm.settings import (
    GUIDE,
    OFFERED,
    RETAIN,
    Settings,
    build_method,
    read_budget,
    read_settings,
)


def config(**given):
    return SimpleNamespace(sparsight=given)


def test_nothing_given_keeps_all_by_the_recommended_method():
    settings = read_settings(SimpleNamespace())
    assert settings.method.name == "sparsight"
    assert settings.method.where == "input"
    assert settings.retain is None
    assert not settings.reads_text


def test_a_server_sets_method_budget_and_settings():
    settings = read_settings(config(method="cdpruner", retain=0.25, settings={"blend": 0.7}))
    assert (settings.method.name, settings.method.blend) == ("cdpruner", 0.7)
    assert settings.retain == 0.25
    assert settings.reads_text


def test_the_family_says_where_tokens_are_compared_unless_told():
    assert read_settings(config(), space="features").method.space == "features"
    told = config(settings={"space": "tokens"})
    assert read_settings(told, space="features").method.space == "tokens"


def test_divprune_is_centred_unless_told():
    assert build_method("divprune").centred
    assert not build_method("divprune", {"centred": False}).centred


@pytest.mark.parametrize("name", sorted({method.name for method in methods()} - OFFERED.keys()))
def test_methods_that_cannot_run_are_refused_with_those_that_can(name):
    with pytest.raises(SettingError, match="does not run in vLLM") as refused:
        build_method(name)
    assert all(offered in str(refused.value) for offered in OFFERED)


@pytest.mark.parametrize("name", ["max_min", "", None, 3, "file.py:Own"])
def test_unknown_methods_are_refused(name):
    with pytest.raises(SettingError, match="is not known; choose one of"):
        build_method(name)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sparsight", {"where": "both"}, "cuts in the decoder too"),
        ("sparsight", {"sites": [0, 3]}, "before the decoder"),
        ("divprune", {"positions": "keep"}, "numbers tokens"),
        ("cdpruner", {"tower": None}, "no second model"),
        ("cdpruner", {"relevance": "clip"}, "needs CLIP's text tower"),
        ("uniform", {"seed": 1}, "cannot be given"),
        ("divprune", [1], "are no table"),
        ("divprune", {"centred": "yes"}, "give True or False"),
    ],
)
def test_settings_that_cannot_be_given_are_refused(name, settings, message):
    with pytest.raises(SettingError, match=message):
        build_method(name, settings)


def test_unknown_entries_of_a_server_are_refused():
    with pytest.raises(SettingError, match=r"budget.* not known"):
        read_settings(config(budget=64))


@pytest.mark.parametrize("given", [3, "sparsight", [1]])
def test_an_entry_that_is_no_table_is_refused(given):
    with pytest.raises(SettingError, match="is no table"):
        read_settings(SimpleNamespace(sparsight=given))


BAD = [0, -3, "x", "64", True, False, math.nan, math.inf, 1.5, 64.0, -0.5, 0.0, [64], {}, None]


@pytest.mark.parametrize("value", BAD, ids=repr)
def test_bad_budgets_of_a_request_are_refused(value):
    with pytest.raises(BudgetError):
        read_budget({RETAIN: value}, Settings(build_method("uniform"), 64))


@pytest.mark.parametrize("value", [v for v in BAD if v is not None], ids=repr)
def test_bad_budgets_of_a_server_are_refused(value):
    with pytest.raises(BudgetError):
        read_settings(config(retain=value))


@pytest.mark.parametrize("key", [GUIDE, "sparsight_text", "sparsight_method", "sparsight_"])
def test_other_entries_of_ours_in_a_request_are_refused(key):
    with pytest.raises(SettingError, match="is not known"):
        read_budget({key: [1, 2]}, Settings(build_method("uniform")))


def test_a_request_goes_before_the_server():
    settings = Settings(build_method("uniform"), 64)
    assert read_budget({"num_crops": 4}, settings) == 64
    assert read_budget({RETAIN: 9, "num_crops": 4}, settings) == 9
    assert read_budget({RETAIN: 1.0}, settings) == 1.0
    assert read_budget({RETAIN: 10**9}, settings) == 10**9
