"""Merging inside an encoder as arithmetic: sizes, places and fillers."""

import pytest
import torch

from sparsight.sequence.merging import Merging

BLOCKS = 3


def walk(counts, class_token, hidden, seed=0):
    """Merge random tokens (I, N, D) by random keys, and yield the state behind each block."""
    generator = torch.Generator().manual_seed(seed)
    merging = Merging(hidden, counts, class_token, BLOCKS)
    for block in range(BLOCKS):
        assert (merging.make_mask(hidden.dtype) is None) == (block == 0)
        merging.match(block, torch.randn(*hidden.shape[:2], 4, generator=generator).double())
        short = merging.merge(block, hidden)
        again = merging.split(block, short)
        assert again.shape == hidden.shape
        hidden = short
        merging.end_block(block)
        yield merging, hidden
    assert merging.complete


def tokens(images, patches, class_token, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, patches + class_token, 5, generator=generator).double()


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("counts", [(6, 6), (3, 11, 3), (5, 20), (20, 4, 9)])
def test_every_patch_is_in_one_token_at_every_block(counts, class_token):
    given = tokens(len(counts), 20, class_token)
    for merging, hidden in walk(counts, class_token, given):
        places, spread = merging.list_places(), merging.spread(hidden)
        for row in range(len(counts)):
            members = [(places[row] == new).nonzero().flatten() for new in range(hidden.shape[1])]
            filled = [own for own in members if len(own)]
            assert sum(map(len, filled)) == given.shape[1]
            if class_token:
                assert members[0].tolist() == [0]
            for new, own in enumerate(filled):
                torch.testing.assert_close(hidden[row, new], given[row, own].mean(dim=0))
                assert torch.equal(spread[row, own], hidden[row, new].expand(len(own), -1))
    assert [len(places[row].unique()) for row in range(len(counts))] == [
        count + class_token for count in counts
    ]


@pytest.mark.parametrize("counts", [(4, 4), (3, 11)])
def test_equal_tokens_stay_as_they_are(counts):
    given = tokens(1, 1, False).expand(2, 16, -1).clone()
    for merging, hidden in walk(counts, False, given):
        torch.testing.assert_close(merging.spread(hidden), given)


def test_masks_weigh_tokens_by_their_sizes_and_hide_fillers():
    given = tokens(2, 16, False)
    *_, (merging, hidden) = walk((3, 9), False, given)
    mask = merging.make_mask(torch.float64)[:, 0, 0]
    assert mask.shape == hidden.shape[:2]
    for row, count in enumerate((3, 9)):
        sizes = torch.bincount(merging.list_places()[row])
        torch.testing.assert_close(mask[row, :count], sizes.double().log())
        assert bool((mask[row, count:] == torch.finfo(torch.float64).min).all())


@pytest.mark.parametrize("class_token", [True, False])
def test_a_picture_beside_another_is_merged_as_alone(class_token):
    given = tokens(2, 20, class_token)
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(2, 20 + class_token, 4, generator=generator).double()
    together = Merging(given, (4, 13), class_token, 3)
    together.match(0, keys)
    hidden = together.merge(0, given)
    for row, count in enumerate((4, 13)):
        alone = Merging(given[row : row + 1], (count,), class_token, 3)
        alone.match(0, keys[row : row + 1])
        own = alone.merge(0, given[row : row + 1])
        assert torch.equal(hidden[row : row + 1, : own.shape[1]], own)
