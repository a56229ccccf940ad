"""DART, AutoPrune and SIEVE in whole models, against slow references in float64."""

import pytest
import torch
from transformers import DynamicCache

from sparsight import sparsify
from sparsight.errors import BudgetError, SettingError
from sparsight.methods import DART, SIEVE, AutoPrune
from sparsight.methods.dart import share_among_pivots
from sparsight.methods.parts.levels import draw_curve, stretch_curve
from tests.support import contract, dense, reference_attention, reference_diversity, tiny
from tests.support.caches import cached
from tests.support.cases import tiny_model

ROWS = {"one": [["image", 9]], "two images": [[3, "image", 2, "image", 6]]}


def pruned(method, inputs):
    """The trace of a prefill, its layers' outputs and its cache."""
    model, cache = tiny_model("sdpa"), DynamicCache()
    with torch.no_grad(), sparsify(model, method) as run, contract.Probe(model) as probe:
        model(**inputs, **cached(cache))
    return run.trace.samples[0], probe.leaving, cache


def places(inputs):
    ids = inputs["input_ids"][0]
    visual = (ids == tiny.IMAGE).nonzero().flatten()
    return visual.tolist(), list(range(int(visual[-1]) + 1, len(ids)))


@pytest.mark.parametrize("layout", ROWS)
@pytest.mark.parametrize("pivots", [(4, 4), (1, 6), (3, 1)])
@pytest.mark.parametrize("site", [1, 2, 5])
def test_dart(layout, pivots, site):
    model, inputs = tiny_model("sdpa"), tiny.batch(ROWS[layout]).inputs
    method = DART(retain=0.8, sites=(site,), image_pivots=pivots[0], text_pivots=pivots[1])
    (step,), leaving, cache = pruned(method, inputs)
    visual, text = places(inputs)
    norms = cache.layers[site - 1].keys[0].abs().sum(dim=(0, 2))
    chosen = reference_attention.ranked(norms, visual)[: pivots[0]]
    chosen += reference_attention.ranked(norms, text)[: pivots[1]]
    with torch.no_grad():
        hidden = model.model.language_model.norm(leaving[site - 1])[0]
    count = len(step.keep)
    each, more = divmod(count - pivots[0], sum(pivots))
    counts = [each + (i < more) for i in range(sum(pivots))]
    assert counts == list(share_among_pivots(count - pivots[0], sum(pivots)))
    assert step.keep.tolist() == reference_attention.dart(hidden, chosen, visual, counts)


def test_few_places_are_those_of_the_largest_keys():
    inputs = tiny.batch(ROWS["one"]).inputs
    (step,), _, cache = pruned(DART(retain=3, kept=(3,)), inputs)
    norms = cache.layers[1].keys[0].abs().sum(dim=(0, 2))
    visual, _ = places(inputs)
    assert [visual[i] for i in step.keep] == sorted(reference_attention.ranked(norms, visual)[:3])


@pytest.mark.parametrize("layout", ROWS)
@pytest.mark.parametrize("settings", [{}, {"heads": 3, "eta": 0.3}, {"heads": 1.0, "eta": 0.95}])
@pytest.mark.parametrize("site", [1, 4])
def test_sieve(layout, settings, site):
    inputs = tiny.batch(ROWS[layout]).inputs
    (step,), leaving, _ = pruned(SIEVE(retain=0.7, sites=(site,), **settings), inputs)
    visual, text = places(inputs)
    eager = tiny_model("eager", dtype=torch.float64)
    with torch.no_grad():
        maps = eager(**inputs, output_attentions=True).attentions[site - 1][0]  # (H, L, L)
    paid = maps[:, text][:, :, visual].sum(dim=1)
    count = max(1, int(settings.get("heads", 12 / 32) * 4))
    count = settings["heads"] if settings.get("heads") == 3 else count
    voting = reference_attention.ranked(paid.sum(dim=1).tolist())[:count]
    hidden = leaving[site - 1][0]
    points, ratio = reference_diversity.residuals(
        hidden[visual], hidden[text], settings.get("eta", 0.75)
    )
    score = (paid[voting].sum(dim=0) * ratio).square()
    alike = reference_attention.cosines(points)
    order = reference_diversity.discounted(score, alike, len(step.keep))
    assert step.keep.tolist() == sorted(order)


def test_sieve_votes_with_three_eighths_of_the_heads():
    assert SIEVE(retain=64).heads * 32 == 12


@pytest.mark.parametrize("layout", ROWS)
@pytest.mark.parametrize(
    "method",
    [
        AutoPrune(retain=0.4),
        AutoPrune(retain=0.5, slope=0.0, recycle=False),
        AutoPrune(retain=0.5, sites=(1, 2, 6), kept=(30, 12, 5), positions="renumber"),
        AutoPrune(retain=0.6, sites=(2, 3, 6)),
    ],
    ids=str,
)
def test_autoprune(layout, method):
    """Raters, scores, counts, clusters and logits are those of the dense reference."""
    model, inputs = tiny_model("sdpa"), tiny.batch(ROWS[layout]).inputs
    with torch.no_grad(), sparsify(model, method) as run:
        logits = model(**inputs).logits[0]
    reference = dense.Reference(model, method).run(dense.turn(model, inputs))
    (steps,) = reference.steps
    assert [(s.site, s.keep) for s in steps] == [
        (s.site, s.keep.tolist()) for s in run.trace.samples[0]
    ]
    contract.close(logits, reference.logits, "pruned against masked")


def test_the_curve_of_32_layers_is_the_published_one():
    for slope in (0.0, 0.1, 0.25, 0.4):
        assert stretch_curve(slope, 32) == pytest.approx(draw_curve(slope, 32))
    # half of 64 layers is as deep as half of 32
    assert stretch_curve(0.2, 64)[31] == pytest.approx(draw_curve(0.2, 32)[15])


@pytest.mark.parametrize("retain", [192, 128, 64])
def test_published_settings(retain):
    plan = DART.paper(retain).plan(576, 32)
    assert plan.kept == (8 * (retain // 8) + 4,)
    assert DART.paper(retain).positions == "keep"
    assert round(plan.mean()) == {192: 220, 128: 160, 64: 100}[retain]
    plan = AutoPrune.paper(retain).plan(576, 32)
    assert plan.counts[0] == int(2.5 * retain)
    assert round(plan.mean()) == {192: 209, 128: 146, 64: 82}[retain]
    assert plan.mean("authors") == pytest.approx(retain, abs=1)
    for method in (DART, AutoPrune):
        with pytest.raises(BudgetError, match=r"was not published; choose 192, 128, 64"):
            method.paper(100)


def test_settings_out_of_range_are_refused():
    refused = {
        "DART has one site": lambda: DART(retain=64, sites=(2, 5)),
        "image_pivots=0 is out of range; give an int >= 1": lambda: DART(retain=64, image_pivots=0),
        "text_pivots=0.5 is out of range": lambda: DART(retain=64, text_pivots=0.5),
        "eta=1.0 is out of range": lambda: SIEVE(retain=64, eta=1.0),
        "heads=0 is out of range": lambda: SIEVE(retain=64, heads=0),
        "slope=-0.1 is out of range": lambda: AutoPrune(retain=64, slope=-0.1),
        "needs as many sites": lambda: AutoPrune(retain=64, kept=(3,)),
    }
    for message, make in refused.items():
        with pytest.raises(SettingError, match=message):
            make()


def test_a_budget_below_the_full_layers_is_refused():
    with pytest.raises(BudgetError, match=r"576 tokens run in full through the first 2 of 32"):
        DART(retain=30).plan(576, 32)
    with pytest.raises(BudgetError, match=r"576 tokens run in full through the first 1 of 32"):
        AutoPrune(retain=10).plan(576, 32)
