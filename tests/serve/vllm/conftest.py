"""vLLM reads its environment when it is imported."""

import importlib.util

from tests.support.vllm_engine import set_environment

if importlib.util.find_spec("vllm") is not None:
    set_environment()
