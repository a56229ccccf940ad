"""One thread for tiny models: a second one only waits for the first, for minutes on a busy machine."""

import pytest
import torch
from hypothesis import settings

# the same examples in every run, so that a red test stays red
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

ALONE = ("embedded", "test_benchmark", "test_measure")  # these choose for themselves


@pytest.fixture(autouse=True)
def one_thread(request):
    if any(name in request.node.nodeid for name in ALONE):
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
