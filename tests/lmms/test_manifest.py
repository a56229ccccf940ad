"""The entry point: light, lazy, and never in the way of other models."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sparsight.lmms
from sparsight.errors import UnsupportedError

ROOT = Path(__file__).parents[2]


def entry_points():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["entry-points"]["lmms_eval.models"]


def test_the_entry_point_names_the_manifest(modules):
    where, _, name = entry_points()["sparsight"].partition(":")
    made = getattr(importlib.import_module(where), name)()
    assert made == modules["lmms_eval.models.registry_v2"].ModelManifest(
        model_id="sparsight", chat_class_path="sparsight.lmms.model.Sparsight"
    )


def test_the_class_is_one_of_a_chat_model(modules, plugin):
    where, _, name = sparsight.lmms.CLASS.rpartition(".")
    found = getattr(importlib.import_module(where), name)
    assert issubclass(found, modules["lmms_eval.api.model"].lmms)
    assert found.is_simple is False


def test_there_is_no_dependency_on_lmms_eval():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [name for names in project["optional-dependencies"].values() for name in names]
    assert not [name for name in [*project["dependencies"], *extras] if "lmms" in name]


def test_the_module_of_the_entry_point_imports_nothing_heavy():
    code = (
        "import sys, sparsight.lmms; "
        "print({'torch', 'transformers', 'lmms_eval', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def break_nothing_there(modules, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    monkeypatch.delitem(sys.modules, "lmms_eval.models.registry_v2")


def break_other_name(modules, monkeypatch):
    del modules["lmms_eval.models.registry_v2"].ModelManifest


def break_other_arguments(modules, monkeypatch):
    modules["lmms_eval.models.registry_v2"].ModelManifest = lambda name: name


@pytest.mark.parametrize("breaks", [break_nothing_there, break_other_name, break_other_arguments])
def test_a_manifest_never_raises(modules, monkeypatch, breaks):
    breaks(modules, monkeypatch)
    with pytest.warns(UserWarning, match=r"cannot be registered .* tested with lmms-eval 0\.7\.3"):
        assert sparsight.lmms.manifest() == ()


def test_a_missing_lmms_eval_is_named(modules, monkeypatch):
    break_nothing_there(modules, monkeypatch)
    for name in [name for name in modules if name.startswith("lmms_eval.")]:
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(UnsupportedError, match=r'pip install "lmms-eval==0\.7\.3"'):
        importlib.import_module("sparsight.lmms.model")


@pytest.mark.parametrize(
    ("module", "owner", "name"),
    [
        ("lmms_eval.api.model", "lmms", "is_simple"),
        ("lmms_eval.api.model", "lmms", "clean"),
        ("lmms_eval.protocol", "ChatMessages", "to_hf_messages"),
    ],
)
def test_a_part_that_is_gone_is_named(modules, module, owner, name):
    setattr(modules[module], owner, type(owner, (), {}))
    with pytest.raises(UnsupportedError, match=rf"{owner}\."):
        importlib.import_module("sparsight.lmms.model")


def test_a_name_that_is_gone_is_named(modules):
    del modules["lmms_eval.protocol"].ChatMessages
    with pytest.raises(UnsupportedError, match="ChatMessages"):
        importlib.import_module("sparsight.lmms.model")
