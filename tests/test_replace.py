"""A run that takes the place of another one inside that one's block."""

from sparsight import SparseVLM, run_of, sparsify
from tests.support import tiny


def test_a_replacing_run_outlives_the_block_of_the_replaced_one():
    model = tiny.tiny_llava()
    with sparsify(model, SparseVLM(retain=12)) as old:
        new = sparsify(model, SparseVLM(retain=18), replace=True)
        assert run_of(model) is new
    assert run_of(model) is new
    old.detach()
    assert run_of(model) is new
    new.detach()
    assert run_of(model) is None
