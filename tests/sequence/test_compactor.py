"""Samples alike are worked on as a group: a batch dispatches little more than one sample does."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sparsight import SparseVLM, SparseVLMPlus, sparsify
from sparsight.methods import Uniform
from sparsight.methods.parts.choosers import top_k
from sparsight.methods.parts.merging import density_peaks, merge
from tests.support import tiny
from tests.support.cases import tiny_model


class Operations(TorchDispatchMode):
    """Counts the tensor operations that are dispatched."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def operations(model, method, samples):
    inputs = tiny.batch([["image", 9 + sample % 4] for sample in range(samples)]).inputs
    with torch.no_grad(), sparsify(model, method), Operations() as counted:
        model(**inputs)
    return counted.count


@pytest.mark.parametrize("method", [SparseVLM, SparseVLMPlus, Uniform])
def test_sixteen_samples_cost_few_operations_more_than_one(method):
    model = tiny_model("sdpa")
    assert operations(model, method(retain=0.5), 16) <= 2.7 * operations(
        model, method(retain=0.5), 1
    )


def test_parts_take_batches():
    points = torch.randn(3, 9, 5, dtype=torch.float64)
    centres, labels = density_peaks(points, 4)
    merged = merge(points, labels, 4, "mean")
    score, images = (
        torch.rand(3, 9),
        torch.tensor([[0] * 9, [0] * 4 + [1] * 5, [0, 0, 2, 2, 2, 3, 3, 3, 3]]),
    )
    kept = top_k(score, 4, images)
    for row in range(3):
        own = density_peaks(points[row], 4)
        assert torch.equal(own[0], centres[row])
        assert torch.equal(own[1], labels[row])
        assert torch.equal(merge(points[row], own[1], 4, "mean"), merged[row])
        assert torch.equal(top_k(score[row], 4, images[row]), kept[row])
