"""HoloV, VScan's first stage and quotas, against recordings and slow references."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.counts.layout import grids_layout
from sparsight.errors import MethodError
from sparsight.methods import HoloV
from sparsight.methods.encoder import EncoderNeed, EncoderSignals
from sparsight.methods.parts.geometry import compare
from sparsight.methods.parts.merging import assign_to_nearest, merge
from sparsight.methods.parts.quotas import (
    choose_in_windows,
    deal_out,
    label_strips,
    label_windows,
    rank_in_groups,
    share_by_weight,
)
from sparsight.methods.parts.window_choices import (
    choose_holov,
    choose_vscan,
    count_strips,
    score_strips,
)
from sparsight.methods.view import View
from tests.support import reference_attention, reference_diversity
from tests.support.recordings import each, read, within


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@each("holov-*")
def test_holov(name, dtype):
    settings, tensors = read(name)
    attention, features = (tensors[key].to(dtype) for key in ("cls_attention", "features"))
    keep = choose_holov(attention, features, settings["retain"], settings["crops"])
    assert torch.equal(keep, tensors["kept_redistributed"].sort().values)
    coded = tensors["kept_in_code_order"]
    if (coded >= 0).all():  # where no strip overflows, the authors' code keeps those too
        assert torch.equal(keep, coded.sort().values)


@pytest.mark.parametrize("count", [1, 7, 20, 41])
@pytest.mark.parametrize("strips", [1, 4, 20])
def test_holov_with_strips_of_unequal_length(count, strips):
    attention, points = random(2, 41).exp().square(), random(2, 41, 5, seed=1)
    keep = choose_holov(attention, points, count, strips)
    weights = score_strips(attention, points, strips)
    groups = reference_diversity.strips(41, strips)
    for row in range(2):
        weight = reference_diversity.strip_scores(attention[row], points[row], groups)
        torch.testing.assert_close(weights[row], torch.tensor(weight, dtype=torch.float64))
        wanted = reference_diversity.holov(attention[row], points[row], count, strips)
        assert keep[row].tolist() == wanted


def test_published_strips():
    assert [count_strips(576, count) for count in (192, 128, 64, 32)] == [5, 8, 16, 32]
    assert [HoloV.paper(count).strips for count in (192, 128, 64)] == [5, 8, 16]
    assert [count_strips(900, 300), count_strips(36, 35)] == [5, 1]


def test_small_images_have_strips_of_two_tokens():
    """With more strips than fit, and images of one token or kept whole."""
    layout, score = grids_layout([(1, 1), (2, 3), (1, 2)]), random(2, 9).abs()
    encoder = EncoderSignals({EncoderNeed("class_attention"): score})
    images = torch.tensor([0, 1, 1, 1, 1, 1, 1, 2, 2]).expand(2, -1)
    for count in range(3, 9):
        view = View(0, count, count, random(2, 9, 4), images, layout=layout, encoder=encoder)
        for strips in (None, 1, 99):
            keep = HoloV(count, strips=strips).select(view).keep
            assert keep.shape == (2, count)
            assert keep[:, 0].tolist() == [0, 0]


def test_holov_refuses_strips_of_one_token():
    with pytest.raises(MethodError, match=r"41 tokens .* 21 strips; give 1\.\.20"):
        choose_holov(random(41), random(41, 5), 8, 21)


@each("vscan-[abq]*")
def test_vscan(name, dtype):
    settings, tensors = read(name)
    if "qwen" in name:
        scores = [tensors["local_score"], tensors["global_score"]]
        grid = tuple(settings["grid_after_merge"])
    else:
        scores = [tensors[f"cls_attention_{which}"].mean(dim=1) for which in ("local", "global")]
        grid = (24, 24)
    scores = [score.to(dtype) for score in scores]
    count = tensors["kept"].shape[-1]
    keep = choose_vscan(*scores, count, grid, settings["window"])
    assert torch.equal(keep, tensors["kept"])
    points = tensors["features"].to(dtype)
    labels = assign_to_nearest(compare(points), keep)
    merged = merge(points, labels, count, "mean")
    torch.testing.assert_close(merged, tensors["merged"].to(dtype), **within(dtype))


@pytest.mark.parametrize("grid", [(9, 11), (3, 17), (2, 2)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_vscan_on_odd_grids(grid, count):
    size = grid[0] * grid[1]
    local, overall = random(2, size), random(2, size, seed=1)
    for part in (count, size // 2, size):
        keep = choose_vscan(local, overall, part, grid, 4)
        for row in range(2):
            wanted = reference_attention.vscan(local[row], overall[row], part, grid, 4)
            assert keep[row].tolist() == wanted


def test_vscan_keeps_means():
    points = random(2, 30, 4)
    keep = torch.tensor([[3, 9, 20], [0, 1, 29]])
    labels = assign_to_nearest(compare(points), keep)
    merged = merge(points, labels, 3, "mean")
    for row in range(2):
        wanted = reference_attention.mean_of_nearest(points[row], keep[row].tolist())
        torch.testing.assert_close(merged[row], wanted)


def test_labels():
    for grid in ((24, 24), (9, 11), (3, 2)):
        labels = label_windows(grid, 4).tolist()
        assert labels == reference_attention.windows(*grid, 4)
    for present, count in ((41, 4), (40, 4), (5, 5)):
        groups = reference_diversity.strips(present, count)
        wanted = [number for number, group in enumerate(groups) for _ in group]
        assert label_strips(present, count).tolist() == wanted


def test_ranks_in_groups():
    score, groups = random(3, 40).mul(2).round(), torch.arange(40) % 5
    ranks = rank_in_groups(score, groups)
    for row in range(3):
        for group in range(5):
            members = [i for i in range(40) if i % 5 == group]
            order = reference_attention.ranked(score[row], members)
            assert [ranks[row, i].item() for i in order] == list(range(8))


def test_windows_that_allow_too_few_are_filled_up():
    score = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    windows = torch.tensor([0, 0, 0, 0, 1])
    assert choose_in_windows(score, windows, 1, 2).tolist() == [0, 4]
    assert choose_in_windows(score, windows, 1, 4).tolist() == [0, 1, 2, 4]


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 9)), min_size=1, max_size=6), st.data()
)
def test_shares(groups, data):
    sizes, weight = map(list, zip(*groups, strict=True))
    count = data.draw(st.integers(0, sum(sizes)))
    if not any(weight):
        weight[0] = 1
    parts = share_by_weight(torch.tensor(weight).double(), count, torch.tensor(sizes)).tolist()
    assert parts == reference_diversity.share(weight, count, sizes)
    assert sum(parts) == count
    dealt = deal_out(torch.tensor([count]), torch.tensor(sizes), torch.tensor(weight).double())
    assert dealt.tolist() == reference_diversity.deal(count, sizes, weight)
