"""A setting of another kind than its field's is refused when the method is built."""

from dataclasses import dataclass, fields

import numpy as np
import pytest

from sparsight import Method
from sparsight.cli.method import cli_name, read_method
from sparsight.errors import SettingError
from sparsight.methods import DART, SCOPE, HiPrune, HoloV, PruMerge, Restore, methods
from sparsight.methods.view import Selection

WRONG = {
    "bool": (None, 1, 0.5, "no", [True]),
    "int": (None, True, 2.5, 1.0, float("nan"), "2", (2,)),
    "float": (None, True, float("nan"), float("inf"), "2", (0.5,)),
}
CASES = [
    (method, field.name, value)
    for method in methods()
    for field in fields(method)
    if field.name != "retain"
    for kind, values in WRONG.items()
    if getattr(field.type, "__name__", "") == kind or str(field.type) == f"{kind} | None"
    for value in values
    if value is not None or "None" not in str(field.type)
]


@dataclass(frozen=True)
class Own(Method):
    power: float = 2
    steps: "int | None" = None

    def select(self, view):
        return Selection(view.images)


@pytest.mark.parametrize(("method", "field", "value"), CASES)
def test_a_setting_of_another_kind_is_refused(method, field, value):
    with pytest.raises(SettingError, match=f"^{field}="):
        method(retain=0.5, **{field: value})


def test_every_kind_is_met():
    met = {(cli_name(method), field) for method, field, _ in CASES}
    assert {("holov", "strips"), ("prumerge", "neighbours"), ("scope", "alpha")} <= met
    assert {("vscan", "window"), ("restore", "calibrate"), ("pyramiddrop", "ratio")} <= met


@pytest.mark.parametrize(
    "text", ["prumerge:neighbours=2.5", "holov:strips=2.5", "vscan:window=1.5"]
)
def test_the_command_line_refuses_it_too(text):
    with pytest.raises(SettingError, match="is out of range; give an int"):
        read_method(text, "64", paper=False)


def test_own_methods_are_checked_too():
    for settings, name in (({"power": "2"}, "power='2'"), ({"steps": 1.5}, "steps=1.5")):
        with pytest.raises(SettingError, match=f"{name} is out of range; give a"):
            Own(**settings)
    assert (Own(power=3, steps=None).power, Own(steps=4).steps) == (3, 4)


def test_numbers_of_numpy_become_those_of_python():
    assert type(PruMerge(neighbours=np.int64(3)).neighbours) is int
    assert type(HiPrune(object_block=np.float32(0.5)).object_block) is float
    assert type(HiPrune(object_block=np.int64(1)).object_block) is int  # a count, no share
    assert HoloV(strips=np.int32(4)).strips == 4
    assert Restore(gamma=np.float64(0.25)).gamma == 0.25


def test_numbers_that_no_tensor_holds():
    with pytest.raises(SettingError, match=r"pivots=.* is out of range; give an int of at most 64"):
        DART(retain=0.5, text_pivots=2**63)
    assert type(SCOPE(alpha=2**63).alpha) is float
    assert type(SCOPE(alpha=2**63 - 1).alpha) is int
    with pytest.raises(SettingError, match=r"alpha=1.* is out of range; give a finite number"):
        SCOPE(alpha=10**400)
