"""PruneSID and AutoPrune, against recordings and slow references."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.counts.layout import grids_layout
from sparsight.methods import PruneSID
from sparsight.methods.encoder import EncoderNeed, EncoderSignals
from sparsight.methods.parts.levels import (
    draw_curve,
    find_slope,
    fit_curve,
    measure_mutual_information,
    plan_counts,
    score_first_layer,
)
from sparsight.methods.parts.prunesid import (
    choose_prunesid,
    group_by_components,
    measure_mean_cosine,
    share_among_groups,
    weigh_components,
)
from sparsight.methods.view import View
from tests.support import reference_diversity, reference_merging
from tests.support.recordings import each, read, within


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@each("prunesid-*")
def test_prunesid(name, dtype):
    config, tensors = read(name)
    budget, features = config["retain"], tensors["hidden_states"][:, 1:].to(dtype)
    threshold = budget / 32 * measure_mean_cosine(features)
    recorded = tensors["suppression_threshold"].to(dtype)
    torch.testing.assert_close(threshold, recorded, **within(dtype))
    groups = group_by_components(features, config["groups"])
    assert torch.equal(groups, tensors["groups_exact_svd"])
    attention = tensors["cls_attention"].to(dtype)
    keep = choose_prunesid(attention, features, tensors["groups"], budget, budget - 1)
    assert torch.equal(keep, tensors["kept"])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("budget", "count"), [(8, 7), (12, 12), (20, 19)])
def test_prunesid_in_a_batch(seed, budget, count):
    points, attention = random(2, 24, 6, seed=seed) + 0.5, random(2, 24, seed=seed + 50).exp()
    groups = torch.randint(budget // 4, (2, 24), generator=torch.Generator().manual_seed(seed))
    keep = choose_prunesid(attention, points, groups, budget, count)
    for row in range(2):
        wanted = reference_diversity.prunesid(
            attention[row], points[row], groups[row].tolist(), budget, count
        )
        assert keep[row].tolist() == wanted


def components(points, count):
    """How much each token weighs on each of the first components, (C, N)."""
    matrix = points.sigmoid().T
    vectors = torch.linalg.svd(matrix - matrix.mean(dim=0), full_matrices=False)[2]
    return vectors[:count].abs()


@pytest.mark.parametrize("count", [6, 13, 25])
def test_loadings_in_place_of_attention(count):
    """As for Qwen2.5-VL: what a token weighs ranks it, and the threshold is the mean at least."""
    hidden, points = random(2, 30, 3), random(2, 30, 9, seed=1) + 0.5
    layout = grids_layout([(5, 6)])
    encoder = EncoderSignals({EncoderNeed("features"): points})
    images = torch.zeros(2, 30, dtype=torch.int64)
    view = View(0, count, count, hidden, images, layout=layout, encoder=encoder)
    keep = PruneSID(count, score="loading").select(view).keep
    for row in range(2):
        score, groups = components(points[row], count // 4).max(dim=0)
        wanted = reference_diversity.prunesid(
            score, points[row], groups.tolist(), count, count, factor=max(18 * count / 30, 1)
        )
        assert keep[row].tolist() == wanted


@pytest.mark.parametrize("shape", [(30, 8), (12, 20)])
def test_components_are_those_of_the_singular_values(shape):
    points = random(2, *shape)
    groups = group_by_components(points, 4)
    for row in range(2):
        weights = components(points[row], 4)
        assert torch.equal(groups[row], weights.argmax(dim=0))
        torch.testing.assert_close(weigh_components(points, 4)[row], weights.T)


def test_shares_of_groups_with_an_empty_one():
    sizes, survivors = torch.tensor([[0, 9, 1, 6]]), torch.tensor([[0, 2, 1, 6]])
    for budget in (4, 8, 16):
        shares = share_among_groups(sizes, survivors, budget, budget - 1)
        wanted = reference_diversity.prunesid_quotas(
            sizes[0].tolist(), survivors[0].tolist(), budget, budget - 1
        )
        assert shares.tolist() == [wanted]
        assert sum(wanted) == budget - 1


@settings(max_examples=200)
@given(st.integers(1, 8), st.integers(0, 999), st.booleans())
def test_limits_of_groups(quarter, seed, heavy):
    # 4 to 32 groups; a heavy one has most survivors and runs into its limit
    draw, groups = torch.Generator().manual_seed(seed), 4 * quarter
    budget = 4 * groups
    sizes = torch.randint(4, 12, (groups,), generator=draw)
    survivors = (sizes * torch.rand(groups, generator=draw)).long().clamp_min(1)
    if heavy:
        sizes[1], survivors[1] = 300, 200
    shares = share_among_groups(sizes, survivors, budget, budget - 1)
    wanted = reference_diversity.prunesid_quotas(
        sizes.tolist(), survivors.tolist(), budget, budget - 1
    )
    assert shares.tolist() == wanted
    assert sum(wanted) == budget - 1


@each("autoprune-*")
def test_autoprune(name, dtype):
    config, tensors = read(name)
    information = measure_mutual_information(tensors["attention"].to(dtype))
    torch.testing.assert_close(information[None], tensors["mutual_information"], rtol=0, atol=1e-6)
    slope = find_slope(float(information), config["k0"], config["gamma"])
    assert slope == pytest.approx(float(tensors["slope"]), abs=1e-6)
    curve = draw_curve(slope, config["layers"], config["x0"])
    start, target = config["tokens_after_layer_0"], config["target"]
    fractions = fit_curve(curve, target, start)
    assert fractions == pytest.approx(tensors["keep_fraction"].tolist(), abs=1e-6)
    assert plan_counts(fractions, target, start) == tensors["planned_counts"].tolist()


def test_information_that_is_large_draws_a_flat_curve():
    assert find_slope(2.5) == 0
    assert len(set(draw_curve(0, 32))) == 1


def test_first_layer():
    attention, paid = random(2, 3, 5, 7).softmax(dim=-1), random(2, 7, seed=1).exp()
    attention = attention * 0.4
    score = score_first_layer(paid, attention)
    for row in range(2):
        total = reference_merging.information(attention[row])
        torch.testing.assert_close(
            measure_mutual_information(attention)[row], torch.tensor(total, dtype=torch.float64)
        )
        wanted = paid[row] + 0.3 * total / 5 * attention[row].mean(dim=(0, 1))
        torch.testing.assert_close(score[row], wanted)


def test_a_mean_that_cannot_be_met_stays_below():
    curve = draw_curve(0.3, 32)
    counts = plan_counts(fit_curve(curve, 64, 161), 64, 161)
    assert sum(counts) <= 64 * 32 < sum(counts) + 32
