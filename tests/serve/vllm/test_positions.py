"""Rotary positions of shortened images, in one prefill and in chunks. Needs no vLLM."""

import pytest
import torch

from sparsight.errors import PromptError
from sparsight.serve.vllm.positions import (
    CHANNELS,
    Span,
    check_surrounded,
    lay_positions,
    place_chosen,
    read_positions,
    write_positions,
)

IMAGE = 3


def make(grids, kept, seed=0):
    """A prompt with images cut to `kept` tokens: ids, spans, places, and true positions."""
    random = torch.Generator().manual_seed(seed)
    ids, true = [9, 9], [[0, 0, 0], [1, 1, 1]]
    at = 2
    spans, places = [], []
    for (rows, columns), count in zip(grids, kept, strict=True):
        ids.append(5)
        true.append([at] * 3)
        at += 1
        chosen = torch.randperm(rows * columns, generator=random)[:count].sort().values
        spans.append(Span(len(ids), count, (1, rows, columns)))
        places.append(chosen)
        ids += [IMAGE] * count
        true += [[at, at + p // columns, at + p % columns] for p in chosen.tolist()]
        at += max(rows, columns)
        ids += [6, 9]
        true += [[at] * 3, [at + 1] * 3]
        at += 2
    return torch.tensor(ids), spans, places, torch.tensor(true).T, at


CASES = [
    ([(2, 3)], [4]),
    ([(4, 3), (3, 5)], [5, 1]),
    ([(2, 3), (3, 2), (2, 2)], [6, 2, 3]),
    ([(1, 300)], [3]),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_channels_hold_large_coordinates_exactly_in_any_dtype(dtype):
    places = torch.tensor([0, 257, 300 * 299 + 257, 300 * 300 - 1])
    written = write_positions(places, (1, 300, 300))
    assert written.shape == (4, CHANNELS)
    read = read_positions(written.to(dtype))
    assert read.T.tolist() == [[0, 0, 0], [0, 0, 257], [0, 299, 257], [0, 299, 299]]


@pytest.mark.parametrize(("grids", "kept"), CASES)
def test_text_has_its_positions_before_any_image_is_encoded(grids, kept):
    ids, spans, _, true, after = make(grids, kept)
    laid, delta = lay_positions(len(ids), spans)
    assert torch.equal(laid[:, ids != IMAGE], true[:, ids != IMAGE])
    assert delta == after - len(ids)


@pytest.mark.parametrize(("grids", "kept"), CASES)
def test_chunks_of_any_size_give_the_true_positions(grids, kept):
    ids, spans, places, true, _ = make(grids, kept)
    written = [write_positions(p, s.grid) for p, s in zip(places, spans, strict=True)]
    every = read_positions(torch.cat(written))
    order = (ids == IMAGE).long().cumsum(0) - 1
    for size in range(1, len(ids) + 1):
        positions = lay_positions(len(ids), spans)[0]
        for done in range(0, len(ids), size):
            here = slice(done, done + size)
            columns = order[here][ids[here] == IMAGE]
            if len(columns):
                positions = place_chosen(ids, IMAGE, positions, every[:, columns], done)
        assert torch.equal(positions, true), size


def test_the_first_image_may_be_cached():
    """What was computed for an earlier request keeps provisional positions, which nobody reads."""
    ids, spans, places, true, _ = make([(4, 3), (3, 5)], [5, 4])
    positions = lay_positions(len(ids), spans)[0]
    where = read_positions(write_positions(places[1], spans[1].grid))
    done = spans[1].start - 1
    positions = place_chosen(ids, IMAGE, positions, where, done)
    assert torch.equal(positions[:, done:], true[:, done:])


def test_a_prompt_may_begin_with_an_image():
    ids = torch.tensor([IMAGE, IMAGE, 9])
    where = read_positions(write_positions(torch.tensor([1, 2]), (1, 2, 2)))
    laid = lay_positions(3, [Span(0, 2, (1, 2, 2))])[0]
    assert place_chosen(ids, IMAGE, laid, where, 0).T.tolist() == [[0, 0, 1], [0, 1, 0], [2, 2, 2]]


def test_images_without_text_behind_them_are_refused():
    check_surrounded([5, IMAGE, 6, 5, IMAGE, 6], IMAGE)
    for ids in ([5, IMAGE, IMAGE, 6], [5, IMAGE]):
        with pytest.raises(PromptError, match="an image is followed"):
            check_surrounded(ids, IMAGE)
