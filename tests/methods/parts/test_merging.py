"""ToMe, RESTORE and the biases of merged tokens, against recordings and slow references."""

import pytest
import torch

from sparsight.errors import MethodError
from sparsight.methods.parts.anchors import choose_anchors, find_lower_median, group_by_anchors
from sparsight.methods.parts.bipartite import (
    find_middles,
    match_bipartite,
    merge_by_size,
    merge_sizes,
    plan_merges,
)
from sparsight.methods.parts.calibration import (
    bias_of_axes,
    bias_of_distance,
    bias_of_sizes,
    bias_of_tables,
)
from sparsight.methods.parts.choosers import choose_max_min
from sparsight.methods.parts.geometry import compare
from sparsight.methods.parts.merging import count_members, merge
from sparsight.methods.parts.scores import attend
from sparsight.methods.parts.tensors import take
from sparsight.methods.parts.window_choices import choose_holov
from tests.support import reference_bias
from tests.support import reference_merging as reference
from tests.support.recordings import each, read, within


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@each("tome-*")
def test_tome(name, dtype):
    settings, tensors = read(name)
    values = tensors["inputs"].to(dtype)
    sizes, owner = torch.ones(len(values), dtype=dtype), torch.arange(len(values))
    for block, fewer in enumerate(settings["r"]):
        joined = match_bipartite(tensors[f"metric.{block}"].to(dtype), fewer)
        count = len(values) - fewer
        values = merge_by_size(values, sizes, joined, count)
        sizes, owner = merge_sizes(sizes, joined, count), joined[owner]
        assert torch.equal(sizes, tensors[f"size.{block}"].to(dtype))
    torch.testing.assert_close(values, tensors[f"output.{block}"].to(dtype), **within(dtype))
    assert torch.equal(owner, tensors["owner"])
    query, key = tensors["query"].to(dtype), tensors["key"].to(dtype)
    shares = attend(query, key, 0.25, bias_of_sizes(sizes))
    attended = shares @ tensors["value"].to(dtype)
    torch.testing.assert_close(attended, tensors["proportional"].to(dtype), **within(dtype))


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("present", [8, 9])
@pytest.mark.parametrize("fewer", [0, 2, 9])
def test_bipartite(class_token, present, fewer):
    metric, values = random(3, present, 4), random(3, present, 5, seed=1)
    sizes = torch.arange(1.0, present + 1).expand(3, -1)
    owner = match_bipartite(metric, fewer, class_token)
    count = int(owner.max()) + 1
    merged, totals = merge_by_size(values, sizes, owner, count), merge_sizes(sizes, owner, count)
    for row in range(3):
        groups = reference.bipartite(metric[row], fewer, class_token)
        members = [(owner[row] == new).nonzero().flatten().tolist() for new in range(count)]
        assert members == groups
        wanted, new_sizes = reference.weighted_means(values[row], sizes[row], groups)
        torch.testing.assert_close(merged[row], wanted)
        assert totals[row].tolist() == new_sizes
    assert not class_token or (owner[:, 0] == 0).all()


def test_merges_sum_up():
    for count in (192, 128, 64):
        parts = plan_merges(576, count, 23)
        assert sum(parts) == 576 - count
        assert max(parts) - min(parts) <= 1
        assert list(parts) == sorted(parts, reverse=True)


@pytest.mark.parametrize(("present", "blocks"), [(16, 4), (17, 5), (9, 3), (5, 3), (1, 2)])
def test_merges_reach_every_count_that_halving_reaches(present, blocks):
    least = present
    for _ in range(blocks):
        least -= least // 2
    for count in range(least, present + 1):
        left = present
        for merged in plan_merges(present, count, blocks):
            assert 0 <= merged <= left // 2
            left -= merged
        assert left == count
    for count in (least - 1, present + 1):
        with pytest.raises(MethodError, match=rf"give a count of {least}\.\.{present}"):
            plan_merges(present, count, blocks)


@each("restore-*")
def test_restore(name, dtype):
    settings, tensors = read(name)
    points, kept = tensors["features"].to(dtype), settings["kept"]
    if settings["base"] == "divprune":
        base = choose_max_min(compare(points), kept).sort().values
    else:
        base = choose_holov(tensors["cls_attention"].to(dtype), points, kept)
    assert torch.equal(base, tensors["kept_by_base"])
    groups = group_by_anchors(points, base, settings["merged"])
    # every token that stays, and every group, becomes one output; they are ordered by position
    owner = torch.empty(len(points), dtype=torch.int64)
    owner[groups.keep] = torch.arange(kept)
    owner[groups.pool] = groups.labels + kept
    median = find_lower_median(groups.labels, groups.pool, settings["merged"])
    order = torch.cat([groups.keep, median]).argsort(stable=True)
    assert torch.equal(torch.cat([groups.keep, median])[order], tensors["median_position"])
    assert torch.equal(order.argsort()[owner], tensors["group_of_source"])
    sizes = count_members(owner, settings["retain"])[order]
    assert torch.equal(sizes, tensors["sizes"])
    merged = merge(take(points, groups.pool), groups.labels, settings["merged"], "mean")
    tokens = torch.cat([points[groups.keep], merged])[order]
    torch.testing.assert_close(tokens, tensors["tokens"].to(dtype), **within(dtype))


@each("restore-*")
def test_distance_bias(name, dtype):
    settings, tensors = read(name)
    before, after = settings["system_tokens"], settings["text_tokens_after"]
    visual = len(tensors["features"])
    positions = torch.cat(
        [
            torch.arange(before),
            before + tensors["median_position"],
            before + visual + torch.arange(after),
        ]
    )
    width = settings["head_width"]
    exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
    frequencies = (settings["rotary_base"] ** -exponents).to(dtype)
    bias = bias_of_distance(positions, frequencies, before + visual + after, settings["c"])
    torch.testing.assert_close(bias, tensors["distance_bias"].to(dtype), **within(dtype))


def test_bias_of_several_axes():
    positions = torch.tensor([[[0, 0], [3, 1], [4, 0], [4, 7]], [[0, 0], [1, 1], [2, 2], [9, 3]]])
    frequencies = [torch.tensor([1.0, 0.3], dtype=torch.float64), torch.tensor([0.7]).double()]
    bias = bias_of_axes(positions, frequencies, 10)
    for row in range(2):
        wanted = reference.distance_bias(
            positions[row].tolist(), [axis.tolist() for axis in frequencies]
        )
        torch.testing.assert_close(bias[row], wanted)


@pytest.mark.parametrize("interleaved", [False, True])
def test_bias_of_tables_is_that_of_positions(interleaved):
    """Of one axis and of three, whichever frequencies turn with which."""
    sections, every = [4, 2, 2], reference_bias.frequencies(1e4, 16)
    random_places = torch.randint(0, 30, (12, 3), generator=torch.Generator().manual_seed(2))
    axes = reference_bias.split_by_axis(every, sections, interleaved)
    order = [(a, f) for a, axis in enumerate(axes) for f in axis]  # of no matter
    angles = torch.stack([random_places[:, a].double() * f for a, f in order], dim=-1)
    angles = torch.cat([angles, angles], dim=-1)
    bias = bias_of_tables(angles.cos() * 1.3, angles.sin() * 1.3, 1.7)  # a factor, as YaRN's
    wanted = reference.distance_bias(random_places.tolist(), axes, 1.7)
    torch.testing.assert_close(bias.tril(), wanted, rtol=0, atol=1e-9)
    torch.testing.assert_close(bias, bias.T)
    frequencies = torch.tensor(every, dtype=torch.float64)
    line = torch.arange(12)[None] * 3
    angles = line[..., None] * frequencies
    of_one = bias_of_distance(line, frequencies, 40)
    torch.testing.assert_close(bias_of_tables(angles.cos(), angles.sin()).tril(), of_one)


@pytest.mark.parametrize("form", ["paper", "code"])
@pytest.mark.parametrize("seed", range(3))
def test_anchors(form, seed):
    points = random(2, 20, 4, seed=seed) + 0.3
    anchors = choose_anchors(compare(points), 6, form)
    for row in range(2):
        assert anchors[row].tolist() == reference.anchors(points[row], 6, form)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", ["paper", "code"])
def test_of_equal_tokens_the_first_alone_is_an_anchor(form, dtype):
    points = random(2, 40, 12, seed=4).to(dtype) + 1.0
    equal = [3, 7, 11, 15, 36]
    points[:, equal] = points[:, 3:4] * torch.tensor([1.0, 2, 3, 0.7, 1.1], dtype=dtype)[:, None]
    chosen = choose_anchors(compare(points), 34, form)
    for row in range(2):
        assert set(chosen[row].tolist()) & set(equal) <= {3}
        alone = choose_anchors(compare(points[row]), 34, form)
        assert sorted(alone.tolist()) == sorted(chosen[row].tolist())


def test_lower_median():
    labels = torch.tensor([[0, 1, 0, 1, 0, 0, 2], [2, 2, 2, 1, 0, 0, 0]])
    values = torch.tensor([[9, 5, 1, 6, 3, 4, 8], [7, 1, 2, 3, 9, 4, 5]])
    assert find_lower_median(labels, values, 3).tolist() == [[3, 5, 8], [5, 3, 2]]


@pytest.mark.parametrize("seed", range(6))
def test_the_middle_patch_is_the_one_nearest_to_the_mean_place(seed):
    generator = torch.Generator().manual_seed(seed)
    owner = torch.randint(0, 7, (3, 20), generator=generator)
    rows, columns = torch.arange(20) // 5, torch.arange(20) % 5
    middles = find_middles(owner, rows, columns, 8)
    for row, own in zip(owner, middles.tolist(), strict=True):
        assert own == reference.middles(row.tolist(), 5, 8)
