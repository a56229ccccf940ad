"""vLLM reads its environment when it is imported; tests of engines are skipped without it."""

import importlib.util

import pytest

from tests.support.vllm_engine import set_environment

HAVE = importlib.util.find_spec("vllm") is not None
if HAVE:
    set_environment()
ENGINES = "engines"  # the folder of tests that start one


def pytest_collection_modifyitems(items):
    if HAVE:
        return
    skip = pytest.mark.skip(reason="vLLM cannot be imported; `make vllm-test` installs it")
    for item in items:
        if "vllm/engines/" in item.nodeid:
            item.add_marker(skip)
