"""Choices at the encoder's output, against recordings and slow references."""

import pytest
import torch

from sparsight.methods.parts import scores
from sparsight.methods.parts.choosers import top_k
from sparsight.methods.parts.encoder_choices import (
    choose_hiprune,
    choose_prumerge,
    choose_prumerge_plus,
    choose_visionzip,
    choose_vispruner,
    count_anchors,
    count_outliers,
)
from sparsight.methods.parts.geometry import compare
from sparsight.methods.parts.merging import merge_contextual, merge_dropped, merge_neighbours
from sparsight.methods.parts.scores import (
    score_attention_received,
    score_class_attention,
    score_last_attention,
)
from sparsight.methods.parts.tensors import take
from tests.support import reference_attention as reference
from tests.support.recordings import each, read, within


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@each("fastv-*")
def test_fastv(name, dtype):
    settings, tensors = read(name)
    visual = torch.arange(settings["visual"])[None] + settings["text_before"]
    query, key = tensors["query"][:, :, -1].to(dtype), tensors["key"].to(dtype)
    score = score_last_attention(query, key, visual)
    torch.testing.assert_close(score[0], tensors["score"].to(dtype), **within(dtype))
    keep = top_k(score, round(settings["visual"] * (1 - settings["R"])))
    assert torch.equal(keep[0], tensors["kept"])


@each("fastervlm-*")
def test_fastervlm(name, dtype):
    settings, tensors = read(name)
    score = tensors["cls_attention"].to(dtype).mean(dim=1)
    torch.testing.assert_close(score, tensors["score"].to(dtype), **within(dtype))
    assert torch.equal(top_k(score, settings["visual_token_num"]), tensors["kept"])


@each("hiprune-*")
def test_hiprune(name, dtype):
    settings, tensors = read(name)
    middle, deep = tensors["object_score"].to(dtype), tensors["deep_score"].to(dtype)
    width = settings["grid_after_merge"][1] if "retain" in settings else settings["grid_width"]
    count = tensors["kept"].shape[-1]
    if "query_deep" in tensors:
        wanted = (middle, deep)
        middle, deep = (
            score_attention_received(
                tensors[f"query_{block}"].to(dtype), tensors[f"key_{block}"].to(dtype)
            )
            for block in ("object", "deep")
        )
        for score, recorded in zip((middle, deep), wanted, strict=True):
            torch.testing.assert_close(score, recorded, **within(dtype))
        assert torch.equal(
            top_k(middle, count_anchors(count)), tensors["anchors"].sort(dim=-1).values
        )
    keep = choose_hiprune(middle, deep, count, count_anchors(count, settings["alpha"]), width)
    assert torch.equal(keep, tensors["kept"])


def test_published_anchors():
    assert [count_anchors(count) for count in (192, 128, 64)] == [4, 3, 1]


@pytest.mark.parametrize("anchors", [0, 2, 9])
def test_hiprune_marks_neighbours_of_anchors(anchors):
    # scores of few values: ties; 9 anchors and their neighbours are more than 12
    middle, deep = (random(3, 40, seed=seed).mul(2).round() for seed in (1, 2))
    keep = choose_hiprune(middle, deep, 12, anchors, 8)
    for row in range(3):
        assert keep[row].tolist() == reference.hiprune(middle[row], deep[row], 12, anchors, 8)


@each("vispruner-*")
def test_vispruner(name, dtype):
    settings, tensors = read(name)
    count, ratio = settings["visual_token_num"], settings["important_ratio"]
    score, important = tensors["cls_attention"].to(dtype).mean(dim=1), int(count * ratio)
    assert torch.equal(top_k(score, important), tensors["important"])
    keep = choose_vispruner(score, tensors["features"].to(dtype), count, important)
    assert torch.equal(keep, tensors["kept"])


@pytest.mark.parametrize(("count", "important"), [(9, 4), (10, 5), (40, 20), (41, 41), (4, 0)])
def test_vispruner_with_odd_counts(count, important):
    score, features = random(2, 41), random(2, 41, 6, seed=1)
    keep = choose_vispruner(score, features, count, important)
    for row in range(2):
        wanted = reference.vispruner(score[row], features[row], count, important)
        assert keep[row].tolist() == wanted


@pytest.mark.parametrize("count", [1, 9, 40])
def test_vispruner_that_goes_by_attention_alone(count):
    score, features = random(2, 41), random(2, 41, 6, seed=1)
    assert torch.equal(choose_vispruner(score, features, count, count), top_k(score, count))


@each("visionzip-*")
def test_visionzip(name, dtype):
    settings, tensors = read(name)
    query, key = tensors["query"].to(dtype), tensors["key"].to(dtype)
    score = score_class_attention(query, key)
    recorded = tensors["cls_score"].to(dtype) / settings["heads"]
    torch.testing.assert_close(score, recorded, **within(dtype))
    similarity = compare(key[:, :, 1:].mean(dim=1))
    groups = choose_visionzip(score, similarity, settings["dominant"] - 1, settings["contextual"])
    assert torch.equal(groups.keep, tensors["kept"])
    hidden = tensors["hidden"].to(dtype)
    patches = hidden[:, 1:]
    rows = [hidden[:, :1], take(patches, groups.keep), merge_contextual(patches, groups)]
    torch.testing.assert_close(torch.cat(rows, dim=1), tensors["output"].to(dtype), **within(dtype))


@pytest.mark.parametrize("contextual", [1, 3, 13, 16])
def test_visionzip_groups(contextual):
    score, metric = random(2, 20), random(2, 20, 5, seed=1)
    hidden = random(2, 20, 4, seed=2)
    groups = choose_visionzip(score, compare(metric), 4, contextual)
    merged = merge_contextual(hidden, groups)
    for row in range(2):
        keep, anchors, members, wanted = reference.visionzip(
            score[row], metric[row], hidden[row], 4, contextual
        )
        assert groups.keep[row].tolist() == keep
        assert groups.centres[row].tolist() == anchors
        for label, anchor in enumerate(anchors):
            pool = groups.pool[row][groups.labels[row] == label].tolist()
            assert pool == sorted([anchor, *members[label]])
        torch.testing.assert_close(merged[row].double(), wanted, rtol=0, atol=1e-6)


def test_attention_scores(monkeypatch):
    monkeypatch.setattr(scores, "QUERY_BLOCK", 16)
    query, key = random(2, 3, 41, 4), random(2, 3, 41, 4, seed=1)
    for row in range(2):
        maps = reference.attention(query[row], key[row])
        wanted = torch.tensor(reference.class_row(maps), dtype=torch.float32)
        torch.testing.assert_close(score_class_attention(query, key)[row], wanted)
        wanted = torch.tensor(reference.received(maps), dtype=torch.float32)
        torch.testing.assert_close(score_attention_received(query, key)[row], wanted)
    maps = reference.attention(query[0], key[0], scale=0.1, causal=True)
    wanted = torch.tensor(reference.received(maps, skip=0, causal=True), dtype=torch.float32)
    score = score_attention_received(query[:1], key[:1], skip=0, scale=0.1, causal=True)
    torch.testing.assert_close(score[0], wanted)


@each("prumerge-[ab]", "prumerge-plus-*")
def test_prumerge(name, dtype):
    settings, tensors = read(name)
    query, key = (tensors[part].to(dtype) for part in ("query", "key"))
    # heads are not split
    attention = score_class_attention(query[:, None], key[:, None])
    torch.testing.assert_close(attention[0], tensors["cls_attention"].to(dtype), **within(dtype))
    important = settings["important"]
    if settings["adaptive"]:
        assert count_outliers(attention).tolist() == [important]
    if "plus" in name:
        keep = choose_prumerge_plus(attention[0], important)[None]
    else:
        keep = choose_prumerge(attention, important)
    assert torch.equal(keep[0], tensors["kept"])
    points, similarity = tensors["hidden"].to(dtype), compare(key[:, 1:])
    rows = [
        merge_neighbours(points, similarity, attention, keep, settings["neighbours"]),
        merge_dropped(points, attention, keep),
    ]
    torch.testing.assert_close(torch.cat(rows, dim=1), tensors["output"].to(dtype), **within(dtype))


def test_prumerge_in_a_batch():
    attention = random(2, 30).exp()
    keys, points = random(2, 30, 4, seed=1), random(2, 30, 5, seed=2)
    outliers, keep = count_outliers(attention), choose_prumerge(attention, 4, 5)
    near = merge_neighbours(points, compare(keys), attention, keep, 6)
    merged = torch.cat([near, merge_dropped(points, attention, keep)], dim=1)
    for row in range(2):
        assert outliers[row] == reference.outliers(attention[row])
        order = reference.ranked(attention[row])[:4]
        others = [i for i in range(30) if i not in order]
        spread = [others[int((n + 0.5) * 26 / 5)] for n in range(5)]
        assert keep[row].tolist() == order + spread
        wanted = reference.prumerge_tokens(
            points[row], keys[row], attention[row], order + spread, 6
        )
        torch.testing.assert_close(merged[row].double(), wanted, rtol=0, atol=1e-5)
        plus = choose_prumerge_plus(attention[row], 4).tolist()
        assert plus == reference.prumerge_plus(attention[row], 4)


def test_flat_attention_has_one_outlier():
    assert count_outliers(torch.full((2, 9), 0.1)).tolist() == [1, 1]
    assert len(choose_prumerge_plus(torch.full((9,), 0.1), 5)) == 8
