"""Parts run on tensors without values: so they read none, and no GPU is waited for."""

from functools import partial

import pytest
import torch

from sparsight.counts.layout import Block, grids_layout, layout_of
from sparsight.methods import (
    EVS,
    SCOPE,
    DivPrune,
    FasterVLM,
    HiPrune,
    HoloV,
    PruMerge,
    PruMergePlus,
    VidCom2,
    VisionZip,
    VisPruner,
)
from sparsight.methods.encoder import EncoderSignals
from sparsight.methods.parts.anchors import find_lower_median, group_by_anchors
from sparsight.methods.parts.bipartite import find_middles, match_bipartite, merge_by_size
from sparsight.methods.parts.calibration import bias_of_distance, bias_of_sizes, bias_of_tables
from sparsight.methods.parts.choosers import (
    choose_determinantal,
    choose_discounted,
    choose_max_min,
    top_k,
)
from sparsight.methods.parts.coverage import choose_coverage, choose_tops
from sparsight.methods.parts.decoder_choices import (
    choose_pivots,
    choose_unlike_pivots,
)
from sparsight.methods.parts.encoder_choices import (
    choose_hiprune,
    choose_prumerge,
    choose_visionzip,
    choose_vispruner,
    count_outliers,
)
from sparsight.methods.parts.geometry import compare, compare_centred, standardise
from sparsight.methods.parts.levels import score_first_layer
from sparsight.methods.parts.merging import (
    Groups,
    merge_contextual,
    merge_dropped,
    merge_neighbours,
)
from sparsight.methods.parts.patches import mark_unpredicted
from sparsight.methods.parts.prunesid import group_by_components, share_among_groups
from sparsight.methods.parts.scores import (
    measure_distinctiveness,
    measure_key_norm,
    scale_min_max,
    scale_sigmoid,
    score_attention_received,
    score_class_attention,
    score_last_attention,
)
from sparsight.methods.parts.video import choose_vidcom2, score_change
from sparsight.methods.parts.window_choices import choose_holov, choose_vscan
from sparsight.methods.parts.words import (
    Residual,
    list_mmtok_rows,
    measure_residual,
    score_eadp,
    score_segments,
    smooth,
    sum_strongest_heads,
)
from sparsight.methods.view import View

KIND = torch.bfloat16  # what models hand over


def empty(*shape, dtype=KIND):
    return torch.empty(*shape, dtype=dtype, device="meta")


points, score = empty(2, 30, 8), empty(2, 30)
keys = empty(2, 3, 30, 4)
words, index = empty(2, 5, 8), empty(2, 6, dtype=torch.int64)

CHOICES = {
    "max_min": partial(choose_max_min, compare_centred(points), 6, scale_min_max(score)),
    "determinantal": partial(choose_determinantal, compare(standardise(points)), 6),
    "discounted": partial(choose_discounted, score, compare(points), 6),
    "coverage": partial(choose_coverage, compare(points).hold(), 6, factor=score),
    "mmtok": partial(choose_coverage, list_mmtok_rows(words, points, compare(points)), 6),
    "tops": partial(choose_tops, score, compare(points), 6),
    "hiprune": partial(choose_hiprune, score, score, 6, 2, 5),
    "vispruner": partial(choose_vispruner, score, points, 6, 3),
    "visionzip": partial(choose_visionzip, score, compare(points), 6, 3),
    "prumerge": partial(choose_prumerge, score, 4, 2),
    "holov": partial(choose_holov, score, points, 6, 4),
    "vscan": partial(choose_vscan, score, score, 6, (5, 6), 2),
    "dart": partial(
        choose_unlike_pivots,
        points,
        choose_pivots(measure_key_norm(keys), index, index, 1, 1),
        index,
        (2, 2),
        2,
    ),
    "cdpruner": partial(
        choose_determinantal, compare(points), 6, scale_min_max(score_segments(points, words))
    ),
    "vidcom2": partial(choose_vidcom2, points.view(2, 3, 10, 8), 0.8, 6),
    "evs": partial(top_k, score_change(points.view(2, 3, 10, 8)), 6),
    "restore": partial(group_by_anchors, points, index, 6, images=index.new_empty(2, 30)),
    "median": partial(find_lower_median, empty(2, 30, dtype=torch.int64), score.long(), 6),
}

SCORES = {
    "class": partial(score_class_attention, empty(2, 3, 31, 4), empty(2, 3, 31, 4)),
    "last": partial(score_last_attention, keys[..., 0, :], keys, empty(2, 30, dtype=torch.int64)),
    "received": partial(score_attention_received, keys, keys, skip=0, causal=True),
    "distinctiveness": partial(scale_sigmoid, measure_distinctiveness(points)),
    "eadp": partial(smooth, score_eadp(points, words, words[:, :1]), (5, 6)),
    "residual": partial(measure_residual, points, words),
    "heads": partial(sum_strongest_heads, keys[..., 0], 2),
    "autoprune": partial(score_first_layer, score, empty(2, 3, 5, 30)),
    "sizes": partial(bias_of_sizes, score),
}

MERGED = {
    "contextual": partial(merge_contextual, points, choose_visionzip(score, compare(points), 4, 6)),
    "neighbours": partial(merge_neighbours, points, compare(points), score, index, 3),
    "dropped": partial(merge_dropped, points, score, index),
    "bipartite": partial(merge_by_size, points, score, match_bipartite(points, 24), 6),
}


@pytest.mark.parametrize("name", CHOICES)
def test_choices(name):
    chosen = CHOICES[name]()
    if isinstance(chosen, Groups):
        chosen = {"visionzip": chosen.keep, "restore": chosen.centres}[name]
    assert (chosen.shape, chosen.dtype, chosen.device.type) == ((2, 6), torch.int64, "meta")


@pytest.mark.parametrize("name", SCORES)
def test_scores(name):
    result = SCORES[name]()
    if isinstance(result, Residual):
        result = result.ratio
    assert result.shape == (2, 30)
    assert result.dtype in (torch.float32, torch.float64)


@pytest.mark.parametrize("name", MERGED)
def test_merged_tokens_are_of_the_model_s_kind(name):
    merged = MERGED[name]()
    assert (merged.shape, merged.dtype) == ((2, 1 if name == "dropped" else 6, 8), KIND)


IMAGE, VIDEO = grids_layout([(5, 6)]), layout_of((Block(3, 5), Block(3, 5, frame=1)))
METHODS = (
    *(HiPrune, FasterVLM, VisPruner, VisionZip, PruMerge, PruMergePlus, HoloV, DivPrune, SCOPE),
    *(EVS, VidCom2),
)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_whole_methods(method):
    """All but PruneSID, which waits for each step of its suppression."""
    layout, own = VIDEO if method.videos_only else IMAGE, method(retain=20)
    sizes = {"features": (8,), "keys": (4,), "wide_keys": (8,)}
    values = {need: empty(2, 30, *sizes.get(need.kind, ())) for need in own.encoder_needs}
    encoder = EncoderSignals(values, torch.nn.Identity())
    plan = own.plan(layout, 8)
    (kept,), (made,) = plan.kept, plan.recycled
    images = empty(2, 30, dtype=torch.int64)
    view = View(0, kept + made, kept, points, images, layout=layout, encoder=encoder)
    answer = own.select(view)
    assert answer.keep.shape == (2, kept)
    if made:
        assert (answer.recycled.values.shape, answer.recycled.values.dtype) == ((2, made, 8), KIND)


def test_what_is_neither():
    positions = empty(2, 30, dtype=torch.int64)
    assert find_middles(positions, positions[0], positions[0], 6).shape == (2, 6)
    assert bias_of_distance(positions, empty(4), 99).shape == (2, 30, 30)
    assert bias_of_tables(points, points).shape == (2, 30, 30)
    assert group_by_components(points, 4).shape == (2, 30)
    assert share_among_groups(positions[:, :4], positions[:, :4], 16, 15).shape == (2, 4)
    assert count_outliers(score).shape == (2,)
    for tolerance in (0.0, 0.1):
        assert mark_unpredicted(points, (5, 6), tolerance).shape == (2, 30)
