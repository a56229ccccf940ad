"""The plug-in beside modules that stand for lmms-eval's."""

import importlib
import sys

import pytest
import torch

from tests.support import lmms, tiny, tiny_processor

CLASS = "sparsight.lmms.model"


@pytest.fixture
def modules(monkeypatch):
    """Modules of lmms-eval that the plug-in imports; it is imported anew with them."""
    made = lmms.make_modules()
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, CLASS, raising=False)
    yield made
    sys.modules.pop(CLASS, None)


@pytest.fixture
def plugin(modules):
    """The module of the model."""
    return importlib.import_module(CLASS)


@pytest.fixture
def logged(modules):
    """What was given to the table of throughput, in order."""
    return modules["lmms_eval.models.model_utils.gen_metrics"].logged


@pytest.fixture
def build(plugin, monkeypatch):
    """Builds the model around a tiny one; `build.pair` is that one and its processor."""
    pair = tiny.tiny_llava(dtype=torch.float32), tiny_processor.processor()

    def make(**given):
        monkeypatch.setattr("sparsight.lmms.answering.load_model", lambda *_: pair)
        return plugin.Sparsight(**{"device": "cpu", **given})

    make.pair = pair
    return make
