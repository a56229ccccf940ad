"""One thread for tiny models: a second one only waits for the first, for minutes on a busy machine.

What transformers calls deprecated in our own calls fails the test: Python's warnings by
`filterwarnings`, and those that it only logs by the handler here.
"""

import logging

import pytest
import torch
from hypothesis import settings
from transformers.utils import logging as transformers_logging

from tests.support.footprint import altered

# the same examples in every run, so that a red test stays red
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

ALONE = ("embedded", "tests/bench")  # these choose for themselves


# options beside a generation config: pipelines and assisted decoding of transformers itself do so
ITS_OWN = "Passing `generation_config` together with generation-related arguments"


class Deprecations(logging.Handler):
    """Turns a notice of deprecation into an error where it is given."""

    def emit(self, record):
        """Raise if the notice is one."""
        text = record.getMessage()
        if "deprecated" in text and not text.startswith(ITS_OWN):
            raise FutureWarning(text)


@pytest.fixture(autouse=True)
def no_deprecated_calls():
    logger, handler = transformers_logging.get_logger("transformers"), Deprecations()
    logger.addHandler(handler)
    # a notice that is given once would hide behind an earlier test
    type(logger).warning_once.cache_clear()
    yield
    logger.removeHandler(handler)


@pytest.fixture(autouse=True, scope="session")
def shared_models_stay_as_they_are():
    """Fail the session if a test changed a model that is made once for all of them."""
    yield
    assert not altered()


@pytest.fixture(autouse=True)
def one_thread(request):
    if any(name in request.node.nodeid for name in ALONE):
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
