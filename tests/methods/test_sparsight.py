"""The recommended method: its choice, its counts, what suits which family, what it refuses."""

from dataclasses import replace

import pytest
import torch

from sparsight import SparseVLM, Sparsight, sparsify
from sparsight.counts.layout import Block, grids_layout, layout_of
from sparsight.errors import BudgetError, SettingError, UnsupportedError
from sparsight.families import families
from sparsight.methods import CDPruner, Restore
from sparsight.methods.encoder import EncoderNeed, EncoderSignals
from sparsight.methods.parts.by_grid import choose_by_size
from sparsight.methods.parts.scores import share_distinct
from sparsight.methods.view import View
from tests.support import reference_by_text as reference
from tests.support import tiny_rotary
from tests.support.cases import tiny_model

GRIDS = [(0, 4, 5), (0, 3, 3), (1, 3, 3), (2, 4, 5)]
LAYOUT = layout_of((Block(4, 5), Block(3, 3, part=1), Block(3, 3, image=1), Block(4, 5, image=2)))
VISUAL = 58


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


HIDDEN = random(2, VISUAL, 24, seed=0) + 0.6 * random(1, 1, 24, seed=1)
FEATURES = random(2, VISUAL, 20, seed=2) + random(1, 1, 20, seed=3)


def make_view(count, layout=LAYOUT, hidden=HIDDEN):
    values = {
        EncoderNeed("features"): FEATURES[: len(hidden)],
    }
    images = layout.image.expand(len(hidden), -1)
    encoder = EncoderSignals(values)
    return View(0, count, count, hidden, images, layout=layout, encoder=encoder)


@pytest.mark.parametrize("space", ["tokens", "features"])
def test_the_choice_is_that_of_a_slow_reference(space):
    chosen = Sparsight(14, space=space).select(make_view(14)).keep
    judge = CDPruner(14, relevance="none", centred=True, space=space)
    for row in (0, 1):
        sample = reference.Sample(HIDDEN[row], FEATURES[row], None, (), GRIDS, *[None] * 4)
        assert chosen[row].tolist() == reference.keep(judge, sample, 14)
        alone = Sparsight(14, space=space).select(make_view(14, hidden=HIDDEN[row : row + 1]))
        if space == "tokens":  # the view of one sample has the first one's features
            assert torch.equal(alone.keep[0], chosen[row])


def test_grids_alike_are_chosen_from_together_and_a_few_at_a_time(monkeypatch):
    sizes = []

    def choose(tokens, count):
        sizes.append((*tokens.shape, count))
        return torch.arange(count).expand(2, len(tokens), -1)

    keep = choose_by_size(LAYOUT, (3, 2, 2, 3), 0, HIDDEN, choose)
    assert sizes == [(2, 20, 3), (2, 9, 2)]
    assert keep.tolist() == [[0, 1, 2, 20, 21, 29, 30, 38, 39, 40]] * 2
    monkeypatch.setattr("sparsight.methods.parts.by_grid.AT_ONCE", 1)
    assert torch.equal(choose_by_size(LAYOUT, (3, 2, 2, 3), 0, HIDDEN, choose), keep)
    assert sizes[2:] == [(1, 20, 3), (1, 20, 3), (1, 9, 2), (1, 9, 2)]
    assert choose_by_size(LAYOUT, (0, 1, 0, 0), 0, HIDDEN, choose).tolist() == [[20]] * 2


def test_row_ends_are_kept_last():
    layout = layout_of((Block(3, 3, row_end=1), Block(3, 4, part=1)))
    hidden = HIDDEN[:, : len(layout)]
    assert not torch.isin(Sparsight(20).select(make_view(20, layout, hidden)).keep, layout.others)[
        0
    ].any()
    kept = Sparsight(23).select(make_view(23, layout, hidden)).keep
    assert torch.isin(kept, layout.others).sum(dim=-1).tolist() == [2, 2]


def test_one_token_is_left_behind_the_horizon_and_pays_for_more_in_front():
    plan = Sparsight(64).plan(grids_layout([(24, 24)]), 32)
    assert (plan.sites, plan.counts) == ((0, 28), (73, 1))
    assert 63 < plan.mean() <= 64
    plan = Sparsight(64, where="input").plan(grids_layout([(24, 24)]), 32)
    assert (plan.sites, plan.counts) == ((0,), (64,))
    plan = Sparsight(0.95).plan(grids_layout([(24, 24)]), 32)
    assert plan.counts == (576, 1), "all in front of the horizon cost no more than this"
    plan = Sparsight(64, sites=(0, 16)).plan(grids_layout([(24, 24)]), 32)
    assert (plan.sites, plan.counts) == ((0, 16), (127, 1))
    assert Sparsight(64, sites=(0,), where="input").plan(576, 32).counts == (64,)
    for sites in ((0, 32), (0, 0), (0, -1)):
        with pytest.raises(SettingError, match="do not fit"):
            Sparsight(64, sites=sites).plan(576, 32)
    assert not Sparsight(576).plan(grids_layout([(24, 24)]), 32).prunes
    assert Sparsight(1).plan(grids_layout([(24, 24)]), 32).counts == (1, 1)
    with pytest.raises(
        BudgetError, match=r"the least is 1, as one of a sample's 576 stays .* fraction 0.002\."
    ):
        Sparsight(0.0001).plan(grids_layout([(24, 24)]), 32)


def page(*stand_out):
    """Return a view of grids of 10 x 10 tokens, of which so many stand out in each.

    One stands out fully, the others by 0.8 of that, and 8 by half, which is too little.
    """
    layout, grids = layout_of(tuple(Block(10, 10, image=n) for n in range(len(stand_out)))), []
    for seed, count in enumerate(stand_out):
        hidden = torch.ones(1, 100, 200).double() + 0.01 * random(1, 100, 200, seed=seed)
        places = torch.randperm(100, generator=torch.Generator().manual_seed(seed))[: count + 8]
        far = torch.tensor([60.0] + [35.0] * (count - 1) + [20.0] * 8).double()
        hidden[:, places, torch.arange(count + 8) + 20] += far
        grids.append(hidden)
    return replace(make_view(10, layout, torch.cat(grids, dim=1)), exact=False)


def test_pages_full_of_tokens_that_stand_out_keep_up_to_twice_as_many():
    method = Sparsight(30, level="adaptive")
    plan = method.plan(layout_of((Block(10, 10), Block(10, 10, image=1))), 32)
    assert (plan.counts, plan.exact) == ((68, 1), False), "twice the fixed count of 34"
    for stand_out, kept in [((12, 3), (17, 17)), ((40, 3), (34, 17)), ((15, 18), (26, 34))]:
        view = replace(page(*stand_out), count=68, keep_count=68)
        chosen = method.select(view).keep[0]
        assert ((chosen < 100).sum(), (chosen >= 100).sum()) == kept
    usual = replace(page(12, 3), count=68, keep_count=68)
    fixed = replace(usual, count=34, keep_count=34, exact=True)
    assert torch.equal(method.select(usual).keep, Sparsight(30).select(fixed).keep)


def test_a_blank_page_and_a_single_token_show_nothing_that_stands_out():
    assert share_distinct(torch.ones(3, 10, 4), 0.7).tolist() == [0.0] * 3
    assert share_distinct(torch.ones(2, 1, 4), 0.7).tolist() == [0.0] * 2


@pytest.mark.parametrize("space", ["tokens", "features"])
@pytest.mark.parametrize("count", [24, 64, 192])
def test_what_is_kept_of_a_blank_image_is_spread_over_it(space, count):
    layout = grids_layout([(24, 24)])
    blank = random(1, 1, 24, seed=4).expand(1, 576, 24)
    spotted = blank.clone()
    spotted[0, 100] += 1e-6
    hidden = torch.cat([blank, spotted])
    view = make_view(count, layout, hidden)
    view = replace(view, encoder=EncoderSignals({EncoderNeed("features"): hidden}))
    kept = Sparsight(count, space=space).select(view).keep
    assert kept[0].unique().tolist() == kept[0].tolist()  # ascending, and none twice
    areas = kept[0] // 24 // 8 * 3 + kept[0] % 24 // 8  # nine, of 8 x 8 tokens
    held = torch.bincount(areas, minlength=9)
    assert held.min() >= count / 18
    assert held.max() <= count / 6
    assert 100 in kept[1].tolist()  # one token that differs is the first that is chosen


def test_an_adaptive_level_acts_below_half_of_the_tokens_alone():
    layout = grids_layout([(10, 10)])
    for retain in (60, 0.5, 1.0):
        assert Sparsight(retain, level="adaptive").plan(layout, 32) == Sparsight(retain).plan(
            layout, 32
        )
    assert not Sparsight(0.4, level="adaptive").plan(layout, 32).exact
    with pytest.raises(UnsupportedError, match="rows and columns"):
        Sparsight(20, level="adaptive").plan(100, 32)


def test_an_adaptive_level_starves_no_frame_where_a_fixed_one_starves_none():
    clip = layout_of(tuple(Block(4, 4, frame=frame) for frame in range(10)))
    hidden = random(1, len(clip), 24, seed=4)
    for first in (4, 6, 9, 10):  # up to 9, all tokens are chosen from together
        fixed = Sparsight(5).select(make_view(first, clip, hidden)).keep
        view = replace(make_view(2 * first, clip, hidden), exact=False)
        kept = Sparsight(5, level="adaptive").select(view).keep
        if first < 10:
            assert torch.equal(kept, fixed)
        else:
            assert (kept // 16).unique().tolist() == list(range(10))


def test_the_family_says_where_tokens_are_compared():
    spaces = {family.name: family.space for family in families()}
    assert {name for name, space in spaces.items() if space == "features"} == {
        "qwen-vl",
        "qwen3-vl",
    }
    qwen, llava = tiny_rotary.model("qwen25"), tiny_model("sdpa")
    with sparsify(qwen, 0.5) as run:
        assert run.method == Sparsight(0.5, space="features")
    with sparsify(llava, 0.5) as run:
        assert run.method == Sparsight(0.5, space="tokens")
    with sparsify(qwen, Sparsight(0.5, space="tokens")) as run:
        assert run.method.space == "tokens"
    with sparsify(qwen, Restore(0.5, base=Sparsight(where="input"), calibrate=False)) as run:
        assert run.method.base.space == "features"
    assert SparseVLM().for_space("features") == SparseVLM()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"where": "decoder"}, "choose one of 'both', 'input'"),
        ({"space": "pixels"}, "choose one of 'tokens', 'features'"),
        ({"level": "rank"}, "choose one of 'fixed', 'adaptive'"),
        ({"level": "adaptive", "where": "input"}, "give one of them"),
        ({"sites": (3, 9)}, r"the input first; sites=\(3, 9\), give \(0, 28\)"),
        ({"sites": (0, 9), "where": "input"}, r"sites=\(0, 9\), give \(0,\)"),
    ],
)
def test_settings_are_refused_by_name(settings, message):
    with pytest.raises(SettingError, match=message):
        Sparsight(0.5, **settings)


def test_where_no_token_is_a_patch_all_are_chosen_from_together():
    learned = layout_of((Block(0, 0, before=VISUAL),))
    judge = CDPruner(14, relevance="none", centred=True)
    for layout in (None, learned):
        method = Sparsight(14)
        view = replace(make_view(14, learned), layout=layout)
        chosen = method.select(view).keep
        for row in (0, 1):
            sample = reference.Sample(HIDDEN[row], None, None, (), [(0, 1, VISUAL)], *[None] * 4)
            assert chosen[row].tolist() == reference.keep(judge, sample, 14)
    clip = layout_of(tuple(Block(1, 2, frame=frame) for frame in range(29)))
    few = Sparsight(5).select(make_view(5, clip)).keep
    assert (few >= 10).any(dim=-1).all(), "fewer than frames are not the first frames' alone"
    images = (torch.arange(VISUAL) // 2).expand(2, -1)  # 29 images of two tokens
    chosen = Sparsight(29).select(replace(view, images=images, count=29, keep_count=29)).keep
    assert (chosen // 2).tolist() == [list(range(29))] * 2
    assert Sparsight(14).plan(VISUAL, 30).counts == (16, 1)
