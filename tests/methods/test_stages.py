"""Methods that choose at several places: PyramidDrop, VScan, TOPS, and the rank of videos."""

from dataclasses import replace

import pytest
import torch
from transformers import VideoLlavaConfig

from sparsight import sparsify
from sparsight.counts.layout import Block, layout_of
from sparsight.errors import BudgetError, SettingError
from sparsight.families import family_named
from sparsight.methods import TOPS, PyramidDrop, SparseVLM, VScan
from sparsight.methods.encoder import EncoderNeed, EncoderSignals
from sparsight.methods.view import View
from tests.support import reference_attention, reference_diversity, tiny
from tests.support.cases import tiny_model


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        (PyramidDrop, {"ratio": 1.0}, r"ratio=1\.0 is out of range; give a number in \(0, 1\)"),
        (PyramidDrop, {"ratio": 0}, "ratio=0 is out of range"),
        (VScan, {"sites": (3,)}, r"sites=\(3,\), give two, such as \(0, 16\)"),
        (VScan, {"sites": (2, 4)}, "chooses at the input and at one decoder layer"),
        (VScan, {"local_block": 1.5}, r"local_block=1\.5 is out of range"),
        (VScan, {"local_block": -1}, "local_block=-1 is out of range"),
        (VScan, {"window": 0}, "window=0 is out of range; give an int >= 1"),
        (VScan, {"score": "mean"}, "score='mean' is not known"),
        (TOPS, {"sites": (0, 3)}, r"sites=\(0, 3\), give three, such as \(0, 12, 24\)"),
        (TOPS, {"alpha": -0.5}, r"alpha=-0\.5 is out of range; give a number >= 0"),
        (TOPS, {"coverage_weight": float("nan")}, "coverage_weight=nan is out of range"),
        (TOPS, {"scale": "max"}, "scale='max' is not known; choose one of 'mean', 'min-max'"),
        (TOPS, {"kept": (9, 4, 2)}, "needs as many sites"),
        (TOPS, {"kept": (9, 4, 5), "sites": (0, 2, 4)}, "rises"),
    ],
)
def test_settings_that_do_not_fit_are_refused(method, changes, said):
    with pytest.raises(SettingError, match=said):
        method(**changes)


@pytest.mark.parametrize("method", [PyramidDrop, VScan, TOPS])
def test_budgets_that_were_not_published_are_refused(method):
    with pytest.raises(BudgetError, match=rf"{method.__name__}\.paper\(100\) was not published"):
        method.paper(100)
    for retain in method.published:
        preset = method.paper(retain)
        assert preset.positions == "renumber"
        plan = preset.plan(layout_of((Block(24, 24),)), 32)
        assert not plan.exact or plan.visual_tokens == 576
        small = preset.plan(layout_of((Block(1, 20),)), 32)
        assert not small.prunes


def test_counts_for_larger_samples_are_refused():
    with pytest.raises(BudgetError, match="is made for more than the sample's 200 visual tokens"):
        TOPS.paper(128).plan(layout_of((Block(10, 20),)), 32)


@pytest.mark.parametrize("layers", [2, 3, 7, 28, 40])
@pytest.mark.parametrize("method", [PyramidDrop, VScan, TOPS])
def test_other_depths(method, layers):
    sites = method().list_sites(layers)
    assert list(sites) == sorted(set(sites))
    assert sites[-1] < layers
    for retain in (0.3, 0.7, 0.95):
        try:
            plan = method(retain=retain).plan(layout_of((Block(20, 20),)), layers)
        except BudgetError:
            assert method is PyramidDrop
            assert 400 / layers > retain * 400 - 1  # its first layer runs in full
            continue
        assert set(plan.sites) <= set(sites)
        assert retain * 400 - 1 < plan.mean() <= retain * 400
        assert list(plan.counts) == sorted(plan.counts, reverse=True)


def test_published_layers_of_other_depths():
    assert TOPS().list_sites(40) == (0, 15, 30)
    assert VScan().list_sites(28) == (0, 14)
    assert PyramidDrop(retain=0.5).plan(576, 40).sites == (10, 20, 30)


def two_images():
    """A view of two images at the input, 5 x 6 with row ends and 3 x 4, and scores."""
    layout = layout_of((Block(5, 6, row_end=1, image=0), Block(3, 4, image=1)))
    random = torch.Generator().manual_seed(4)
    hidden = torch.randn(2, len(layout), 8, generator=random, dtype=torch.float64)
    scores = torch.rand(2, 2, len(layout), generator=random, dtype=torch.float64)
    images = layout.image.expand(2, -1)
    return View(0, 20, 20, hidden, images, layout=layout), scores


@pytest.mark.parametrize(
    ("count", "shares"), [(1, (1, 0)), (20, (14, 6)), (41, (29, 12)), (45, (30, 12))]
)
def test_vscan_averages_within_each_image(count, shares):
    view, scores = two_images()
    method, layout = VScan(), view.layout
    needs = method.encoder_needs
    encoder = EncoderSignals(dict(zip(needs, scores, strict=True)))
    answer = method.select(replace(view, count=count, keep_count=0, encoder=encoder))
    recycled = answer.recycled
    assert answer.keep.shape == (2, 0)
    for row in range(2):
        wanted = {}
        for grid, own in zip(layout.grids, shares, strict=True):
            if not own:
                continue
            local, overall = (score[row, grid.tokens] for score in scores)
            keep = reference_attention.vscan(local, overall, own, grid.size, 6)
            points = view.hidden[row, grid.tokens]
            means = reference_attention.mean_of_nearest(points, keep)
            wanted |= {int(grid.tokens[i]): mean for i, mean in zip(keep, means, strict=True)}
        for token in layout.others[: count - sum(shares)].tolist():
            wanted[token] = view.hidden[row, token]
        assert recycled.centres[row].tolist() == sorted(wanted)
        values = torch.stack([wanted[token] for token in sorted(wanted)])
        torch.testing.assert_close(recycled.values[row], values)
        # what a label names is the mean of its members
        for label, value in enumerate(recycled.values[row]):
            members = recycled.pool[row][recycled.labels[row] == label]
            torch.testing.assert_close(view.hidden[row, members].mean(dim=0), value)


def test_tops_at_the_input_chooses_in_each_image():
    view, scores = two_images()
    method = TOPS(alpha=0.3, coverage_weight=0.7)
    encoder = EncoderSignals({EncoderNeed("class_attention"): scores[0]})
    keep = method.select(replace(view, encoder=encoder)).keep
    for row in range(2):
        wanted = []
        for grid, count in zip(view.layout.grids, (14, 6), strict=True):
            alike = reference_diversity.cosines(view.hidden[row, grid.tokens])
            order = reference_diversity.tops(
                scores[0][row, grid.tokens], alike, count, alpha=0.3, weight=0.7, scale="mean"
            )
            wanted += grid.tokens[order].tolist()
        assert keep[row].tolist() == sorted(wanted)


@pytest.mark.parametrize("method", [VScan(), TOPS()], ids=lambda method: method.name)
def test_the_choice_at_the_input_reads_no_value(method):
    """On tensors without values: a GPU would not be waited for."""
    view, scores = two_images()
    scores = scores.to("meta")
    encoder = EncoderSignals(dict(zip(method.encoder_needs, scores, strict=False)))
    away = {"hidden": view.hidden.to("meta"), "images": view.images.to("meta")}
    answer = method.select(replace(view, encoder=encoder, **away))
    assert answer.keep.shape[1] + (answer.recycled is not None) * 20 == 20


def test_tops_inside_goes_by_raters_and_hidden_states():
    """The scores of the run are those of a view made by hand."""
    model, inputs = tiny_model("sdpa"), tiny.batch([["image", 9]]).inputs
    seen, select = [], TOPS.select

    def watch(self, view):
        seen.append(view)
        return select(self, view)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TOPS, "select", watch)
        with sparsify(model, TOPS(retain=0.4)) as run, torch.no_grad():
            model(**inputs)
    assert [view.site for view in seen] == [0, 3, 6]
    assert seen[0].attention is None
    for view, step in zip(seen[1:], run.trace.samples[0][1:], strict=True):
        alike = reference_diversity.cosines(view.hidden[0])
        order = reference_diversity.tops(
            view.attention.mean()[0], alike, view.keep_count, alpha=0.5, weight=0.5, scale="mean"
        )
        assert step.keep.tolist() == sorted(step.present[order].tolist())


def test_a_video_of_video_llava_has_2056_tokens():
    config = VideoLlavaConfig()
    config.architectures = ["VideoLlavaForConditionalGeneration"]
    given = {
        "input_ids": torch.full((1, 2056), config.video_token_id),
        "pixel_values_videos": torch.empty(1, 8, 3, 224, 224, device="meta"),
    }
    layout = family_named("VideoLlavaForConditionalGeneration").layout(config, given)
    assert len(layout) == config.video_seq_length == 2056
    assert layout.sizes == ((16, 16),) * 8
    assert (layout.row == -1).nonzero().flatten().tolist() == list(range(0, 2056, 257))
    method = SparseVLM.paper(194)
    assert method == SparseVLM.paper_video(194)
    plan = method.plan(layout, 32)
    assert (plan.sites, plan.counts, plan.exact) == ((2,), (69,), False)
    assert plan.mean() == (2 * 2056 + 30 * 69) / 32
    assert method.plan(13 + 62, 32).counts == (75,), "as many as are there"


def test_the_rank_of_videos_may_be_bounded():
    plan = SparseVLM.paper_video().plan(2048, 32)
    assert (plan.sites, plan.counts, plan.exact) == ((2,), (2048,), False)
    bounded = SparseVLM.paper_video(192).plan(2048, 32)
    assert bounded.counts == (68,)
    assert not bounded.exact
    assert bounded.mean() <= 192
