"""Greedy choosers, against recordings and slow references."""

from functools import partial

import pytest
import torch

from sparsight.errors import MethodError
from sparsight.methods.parts import coverage, geometry
from sparsight.methods.parts.anchors import choose_anchors
from sparsight.methods.parts.choosers import (
    choose_determinantal,
    choose_discounted,
    choose_max_min,
)
from sparsight.methods.parts.coverage import choose_coverage, choose_tops
from sparsight.methods.parts.encoder_choices import choose_hiprune, choose_vispruner
from sparsight.methods.parts.geometry import (
    Matrix,
    compare,
    compare_centred,
    find_most_isolated,
    standardise,
)
from sparsight.methods.parts.merging import assign_to_nearest
from sparsight.methods.parts.scores import (
    measure_distinctiveness,
    scale_min_max,
    scale_sigmoid,
)
from sparsight.methods.parts.window_choices import choose_vscan
from tests.support import reference_diversity as reference
from tests.support.recordings import each, read, within


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@each("divprune-*")
def test_divprune(name, dtype):
    settings, tensors = read(name)
    order = choose_max_min(compare(tensors["features"].to(dtype)), settings["retain"])
    assert torch.equal(order, tensors["order"])
    assert torch.equal(order.sort().values, tensors["kept"])


@each("cenprune-*")
def test_cenprune(name, dtype):
    settings, tensors = read(name)
    points, count = tensors["features"].to(dtype), settings["retain"]
    if settings["standardised"]:
        points = standardise(points)
    distinct = measure_distinctiveness(points)
    weight = scale_min_max(distinct, below=settings["epsilon"])
    if settings["standardised"]:
        weight = scale_sigmoid(distinct, settings["epsilon"])
    torch.testing.assert_close(distinct, tensors["distinctiveness"].to(dtype), **within(dtype))
    torch.testing.assert_close(weight, tensors["weight"].to(dtype), **within(dtype))
    if settings["selector"] == "dpp":
        quality = tensors["relevance"].to(dtype) * weight
        order = choose_determinantal(compare_centred(points), count, quality)
    else:
        order = choose_max_min(compare_centred(points), count, weight)
    assert torch.equal(order, tensors["order"])


@each("scope-*")
def test_scope(name, dtype):
    settings, tensors = read(name)
    points, attention = tensors["features"].to(dtype), tensors["cls_attention"].to(dtype)
    for similarity in (compare(points), compare(points).hold()):
        order = choose_coverage(similarity, settings["retain"], factor=attention)
        assert torch.equal(order, tensors["order"])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("weighted", [False, True])
def test_max_min(seed, weighted):
    points = random(2, 30, 5, seed=seed)
    weight = random(2, 30, seed=seed + 100).abs() if weighted else None
    order = choose_max_min(compare(points), 30, weight)
    for row in range(2):
        alike = reference.cosines(points[row])
        wanted = reference.max_min(alike, 30, None if weight is None else weight[row])
        assert order[row].tolist() == wanted
    assert torch.equal(order[:, :1], choose_max_min(compare(points), 1, weight))


def test_max_min_of_equal_tokens_takes_each_once():
    order = choose_max_min(compare(torch.ones(2, 6, 3)), 6)
    assert order.tolist() == [[0, 1, 2, 3, 4, 5]] * 2


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("blend", [0.5, 1.0])
def test_determinantal(seed, blend):
    points, quality = random(2, 20, 12, seed=seed), random(2, 20, seed=seed + 100).abs() + 0.1
    order = choose_determinantal(compare(points), 8, quality, blend=blend, epsilon=1e-12)
    for row in range(2):
        alike, worth = reference.cosines(points[row]), quality[row].tolist()
        kernel = []
        for i in range(20):
            factors = [1 - blend + blend * worth[i] * other for other in worth]
            kernel.append([a * factor for a, factor in zip(alike[i], factors, strict=True)])
        assert order[row].tolist() == reference.determinantal(kernel, 8)


def test_determinantal_without_quality_starts_as_max_min_does():
    points = random(2, 20, 12)
    order = choose_determinantal(compare(points), 8, epsilon=1e-12)
    start = find_most_isolated(compare(points))
    assert torch.equal(order[:, 0], start)
    for row in range(2):
        wanted = reference.determinantal(reference.cosines(points[row]), 8, int(start[row]))
        assert order[row].tolist() == wanted


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_determinantal_beyond_the_rank_goes_on_by_distance(dtype):
    # 40 tokens in 4 dimensions: 4 choices exhaust the kernel, where dividing by what is left fails
    points = random(3, 40, 4).to(dtype)
    order = choose_determinantal(compare(points), 40)
    assert torch.equal(order.sort(dim=-1).values, torch.arange(40).expand(3, -1))
    for row in range(3):
        alike = reference.cosines(points[row])
        first = order[row, :4].tolist()
        assert first == reference.determinantal(alike, 4, first[0])
        far = [1 - reference.highest(row, first) for row in alike]
        far = [-1.0 if i in first else distance for i, distance in enumerate(far)]
        assert order[row, 4] == far.index(max(far))


@pytest.mark.parametrize("seed", range(5))
def test_discounted(seed):
    points, score = random(2, 25, 4, seed=seed), random(2, 25, seed=seed + 100).abs()
    order = choose_discounted(score, compare(points), 25)
    for row in range(2):
        assert order[row].tolist() == reference.discounted(
            score[row], reference.cosines(points[row]), 25
        )


def test_many_discounts_leave_something_to_choose_by():
    """Products of 200 discounts are below the smallest float32."""
    points, score = random(2, 240, 24).float() + 1.5, random(2, 240, seed=3).abs().float()
    order = choose_discounted(score, compare(points), 200)
    wide = choose_discounted(score.double(), compare(points.double()), 200)
    assert torch.equal(order, wide)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("case", ["plain", "factor", "demand", "floor", "allowed"])
def test_incremental_coverage_chooses_as_sums_made_anew(seed, case):
    alike, size = random(2, 15, 30, seed=seed).tanh(), 30
    options = {
        "plain": {},
        "factor": {"factor": random(2, size, seed=50).abs()},
        "demand": {"demand": random(2, 15, seed=51).abs()},
        "floor": {"floor": -1.0},
        "allowed": {"allowed": random(2, size, seed=52) > -0.5},
    }[case]
    order = choose_coverage(Matrix(alike), 10, **options)
    for row in range(2):
        single = {
            key: value[row] if isinstance(value, torch.Tensor) else value
            for key, value in options.items()
        }
        assert order[row].tolist() == reference.coverage(alike[row].tolist(), 10, **single)


def test_coverage_that_is_complete_takes_the_first_of_the_others():
    order = choose_coverage(compare(torch.eye(3).repeat(1, 3, 1)), 9)
    assert order.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 8]]


def test_standardised_and_centred_tokens():
    points = random(2, 12, 4)
    points[..., 2] = 0.7  # a channel that does not vary
    points[..., 3] *= 50
    alike = compare_centred(standardise(points)).hold().values
    for row in range(2):
        wanted = reference.cosines(reference.centred(reference.standardised(points[row])))
        torch.testing.assert_close(alike[row], torch.tensor(wanted, dtype=torch.float64))


def test_equal_centres_belong_to_themselves():
    labels = assign_to_nearest(compare(torch.ones(1, 5, 3)), torch.tensor([[4, 1, 2]]))
    assert labels.tolist() == [[0, 1, 2, 0, 0]]


@pytest.mark.parametrize("size", [1, 7, 30])
def test_blocks_change_nothing(monkeypatch, size):
    points, score = random(2, 30, 5), random(2, 30, seed=1).abs()
    choices = {
        "max-min": partial(choose_max_min, compare(points), 8),
        "coverage": partial(choose_coverage, compare(points), 8, demand=score),
        "matrix": partial(choose_coverage, compare(points).hold(), 8),
        "anchors": partial(choose_anchors, compare(points), 8),
        "tops": partial(choose_tops, score, compare(points), 8),
    }
    whole = {name: choose() for name, choose in choices.items()}
    monkeypatch.setattr(geometry, "BLOCK", size)
    monkeypatch.setattr(coverage, "IN_CACHE", size * 30)
    for name, choose in choices.items():
        assert torch.equal(choose(), whole[name]), name


def test_rows_that_do_not_change_add_nothing(monkeypatch):
    # a GPU works on all rows rather than wait for the number of those that change
    points = random(2, 60, 6).float()
    few = choose_coverage(compare(points), 20)

    def count_all(self, rise):
        return rise.shape[-1]

    monkeypatch.setattr(coverage.Gains, "_count", count_all)
    assert torch.equal(choose_coverage(compare(points), 20), few)


def test_large_similarities_are_not_held(monkeypatch):
    monkeypatch.setattr(geometry, "HELD", 20)
    assert isinstance(compare(random(2, 20, 3)).hold(), Matrix)
    similarity = compare(random(2, 21, 3))
    assert similarity.hold() is similarity
    rows, columns = torch.arange(4).expand(2, -1), torch.arange(5, 8).expand(2, -1)
    whole = Matrix(similarity.units @ similarity.units.transpose(-1, -2))
    for name, index in (("rows", (rows,)), ("columns", (columns,)), ("pairs", (rows, columns))):
        torch.testing.assert_close(getattr(similarity, name)(*index), getattr(whole, name)(*index))
    assert similarity.shape == whole.shape == (2, 21, 21)


@pytest.mark.parametrize("count", [0, 10])
def test_counts_out_of_range_are_refused(count):
    points, score = random(2, 9, 4), random(2, 9).abs()
    similarity = compare(points)
    for choose in (choose_max_min, choose_determinantal, choose_coverage, choose_anchors):
        with pytest.raises(MethodError, match=rf"^{count} tokens .* of 9; give a count of 1\.\.9"):
            choose(similarity, count)
    for choose in (
        partial(choose_discounted, score, similarity, count),
        partial(choose_tops, score, similarity, count),
        partial(choose_hiprune, score, score, count, 1, 3),
        partial(choose_vispruner, score, points, count, 0),
        partial(choose_vscan, score, score, count, (3, 3)),
    ):
        with pytest.raises(MethodError, match=rf"^{count} tokens .* of 9; give a count of 1\.\.9"):
            choose()


def test_a_sample_alone_is_chosen_from_as_in_a_batch():
    points = random(4, 50, 8).float()
    together = [
        choose_max_min(compare(points), 12),
        choose_determinantal(compare(points), 12),
        choose_coverage(compare(points), 12),
    ]
    for row in range(4):
        alone = points[row : row + 1]
        assert torch.equal(choose_max_min(compare(alone), 12)[0], together[0][row])
        assert torch.equal(choose_determinantal(compare(alone), 12)[0], together[1][row])
        assert torch.equal(choose_coverage(compare(alone), 12)[0], together[2][row])
        assert torch.equal(choose_max_min(compare(points[row]), 12), together[0][row])


@pytest.mark.parametrize("what", ["points", "quality"])
def test_a_number_that_is_none_makes_no_token_be_chosen_twice(what):
    points, quality = random(2, 9, 5), random(2, 9).abs() + 0.1
    {"points": points, "quality": quality}[what][0, 3] = float("nan")
    order = choose_determinantal(compare(points), 9, quality)
    assert torch.equal(order.sort(dim=-1).values, torch.arange(9).expand(2, -1))
    alone = choose_determinantal(compare(points[1]), 9, quality[1])
    assert torch.equal(order[1], alone)


def test_quality_may_be_narrower_than_the_similarity():
    points, quality = random(2, 9, 5), random(2, 9).abs().float()
    order = choose_determinantal(compare(points), 5, quality)
    assert torch.equal(order, choose_determinantal(compare(points), 5, quality.double()))


def test_tokens_that_need_gradients_are_chosen_from_and_keep_them():
    points, quality = random(9, 5).requires_grad_(), random(9).abs().requires_grad_()
    alike = compare_centred(points)
    order = choose_determinantal(alike, 5, quality)
    assert torch.equal(order, choose_determinantal(compare_centred(points.detach()), 5, quality))
    weights = random(9, 5, seed=1)
    (alike.units * weights).sum().backward()
    again = points.detach().requires_grad_()
    middle = again - again.mean(dim=0)
    (middle / middle.norm(dim=-1, keepdim=True) * weights).sum().backward()
    torch.testing.assert_close(points.grad, again.grad)
