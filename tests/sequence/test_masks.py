"""Gathered masks and tables against loops."""

import pytest
import torch

from sparsight.sequence import masks


def random(*shape, high=None):
    generator = torch.Generator().manual_seed(sum(shape))
    return (
        torch.rand(shape, generator=generator)
        if high is None
        else torch.randint(high, shape, generator=generator)
    )


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_rows_and_columns_of_a_mask(dtype, whole, batch):
    """Return the mask slowly: the model's entry for both slots; a token always sees itself."""
    allowed = random(batch, 1, 7, 9) < 0.6
    least = 0 if dtype == torch.bool else torch.finfo(dtype).min
    mask = (
        allowed
        if dtype == torch.bool
        else torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, least)
    )
    rows = None if whole else random(3, 5, high=7)
    queries = 7 if whole else 5
    columns = (
        random(3, queries + 4, high=13) - 2
    )  # some before the mask's first column, some after its last
    valid = random(3, queries + 4) < 0.7
    got = masks.gather_mask(mask, rows, columns, valid)
    assert got.shape == (3, 1, queries, queries + 4)
    assert got.dtype == dtype
    for b in range(3):
        for q in range(queries):
            for k in range(queries + 4):
                row, column = q if whole else int(rows[b, q]), int(columns[b, k])
                seen = (
                    bool(valid[b, k])
                    and 0 <= column < 9
                    and bool(allowed[b % batch, 0, row, column])
                )
                seen = seen or (k == q + 4 and not valid[b, k])
                assert (
                    bool(got[b, 0, q, k] if dtype == torch.bool else got[b, 0, q, k] == 0) == seen
                )
    assert dtype == torch.bool or set(got.unique().tolist()) <= {0.0, float(torch.finfo(dtype).min)}


def test_no_row_is_empty_where_tokens_see_each_other_both_ways():
    valid = torch.tensor([[False, False, True, True], [True, True, True, True]])
    mask = masks.open_mask(valid, 4)
    assert mask.shape == (2, 1, 4, 4)
    assert bool(mask.any(dim=-1).all())
    assert mask[0, 0].int().tolist() == [[1, 0, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]


@pytest.mark.parametrize("shape", [(1, 6, 4), (2, 6, 4), (3, 1, 6, 4), (3, 2, 6, 4)])
def test_rows_of_a_rotary_table(shape):
    table, order = random(*shape), random(2, 3, high=6)
    got = masks.gather_rotary(table, order)
    wanted = torch.stack(
        [table[..., b % shape[-3], :, :][..., order[b], :] for b in range(2)], dim=-3
    )
    assert torch.equal(got, wanted)
