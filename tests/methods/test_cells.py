"""Grids of visual tokens: cells, centres, shares and smaller grids against slow loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.counts.layout import grids_layout
from sparsight.methods.parts.cells import (
    cell_centres,
    downscaled,
    grid_cells,
    partition,
    scaled_cells,
    share,
)
from tests.support import reference_baselines as reference


@st.composite
def partitions(draw):
    height, width = draw(st.integers(1, 16)), draw(st.integers(1, 16))
    return height, width, draw(st.integers(1, height * width))


@settings(max_examples=300)
@given(partitions())
def test_cells_are_rectangles_of_the_reference(case):
    height, width, count = case
    labels = grid_cells(height, width, count)
    wanted = reference.cells(height, width, count)
    assert [(labels == i).nonzero().flatten().tolist() for i in range(count)] == wanted
    assert sorted(token for cell in wanted for token in cell) == list(range(height * width))
    for cell in wanted:  # a rectangle has as many tokens as its rows and columns say
        rows, columns = {t // width for t in cell}, {t % width for t in cell}
        assert len(cell) == len(rows) * len(columns)
        assert max(rows) - min(rows) < len(rows)
        assert max(columns) - min(columns) < len(columns)
    centres = cell_centres(labels, width).tolist()
    assert centres == [reference.centre(cell, width) for cell in wanted] == sorted(centres)


def test_cells_of_published_budgets_are_compact():
    for count in (192, 128, 96, 64, 32):
        sizes = torch.bincount(grid_cells(24, 24, count)).tolist()
        assert len(sizes) == count
        assert max(sizes) <= 2.5 * 576 / count
    assert grid_cells(24, 24, 64).view(24, 24)[:3, :3].unique().tolist() == [0]
    assert torch.equal(grid_cells(5, 7, 35), torch.arange(35))


@settings(max_examples=200)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.data())
def test_shares_are_the_references(sizes, data):
    count = data.draw(st.integers(0, sum(sizes)))
    parts = share(count, sizes)
    assert list(parts) == reference.share(count, sizes)
    assert sum(parts) == count
    assert all(part <= size for part, size in zip(parts, sizes, strict=True))
    assert min(parts) >= 1 or count < len(sizes)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=6), st.data()
)
def test_shares_of_at_least_so_much(pairs, data):
    sizes = [size for size, _ in pairs]
    least = [min(part, size) for size, part in pairs]
    count = data.draw(st.integers(sum(least), sum(sizes)))
    parts = share(count, sizes, least=least)
    assert sum(parts) == count
    for part, low, size in zip(parts, least, sizes, strict=True):
        assert low <= part <= size
    # who has more than its least is not ahead of who has room, by more than a token
    ahead = [part - 1 - count * size / sum(sizes) for part, size in zip(parts, sizes, strict=True)]
    grown = [a for a, part, low in zip(ahead, parts, least, strict=True) if part > low]
    open_ = [a + 1 for a, part, size in zip(ahead, parts, sizes, strict=True) if part < size]
    assert not grown or not open_ or max(grown) <= min(open_) + 1e-9


def test_images_without_a_cell():
    labels, centres = partition(grids_layout([(2, 2)] * 3), 2)
    assert labels.tolist() == [0] * 4 + [1] * 4 + [-1] * 4
    assert centres.tolist() == [0, 4]


@pytest.mark.parametrize(
    ("most", "small"),
    [(576, (24, 24)), (192, (13, 14)), (128, (11, 11)), (64, (8, 8)), (32, (5, 6)), (1, (1, 1))],
)
def test_smaller_grids_of_llava(most, small):
    assert downscaled((24, 24), most) == small == reference.small_grid([(24, 24)], most)


@settings(max_examples=300)
@given(partitions())
def test_smaller_grids_fit_and_keep_their_shape(case):
    height, width, most = case
    rows, columns = downscaled((height, width), most)
    assert 1 <= rows <= height
    assert 1 <= columns <= width
    assert rows * columns <= most
    assert (rows, columns) == (height, width) or most < height * width
    scale = (most / height / width) ** 0.5
    if min(height, width) * scale >= 1:
        assert abs(rows - height * scale) < 1 + 1e-9
        assert abs(columns - width * scale) < 1 + 1e-9
    labels = scaled_cells((height, width), (rows, columns))
    assert labels.tolist() == reference.under((height, width), (rows, columns))
    assert labels.unique().tolist() == list(range(rows * columns))
