"""Scores by text: CDPruner, MMTok and EADP, against recordings and slow references."""

import pytest
import torch

from sparsight.methods.parts.choosers import choose_determinantal
from sparsight.methods.parts.coverage import choose_coverage
from sparsight.methods.parts.geometry import compare
from sparsight.methods.parts.scores import scale_min_max
from sparsight.methods.parts.words import (
    compare_words,
    list_mmtok_rows,
    score_eadp,
    score_segments,
    smooth,
)
from tests.support import reference_diversity as reference
from tests.support.recordings import each, read, within


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@each("cdpruner-clip-*")
def test_cdpruner(name, dtype):
    settings, tensors = read(name)
    score = score_segments(tensors["image_embeds"].to(dtype), tensors["text_embeds"].to(dtype))
    quality = scale_min_max(score, dim=(-2, -1), above=1e-6)
    similarity = compare(tensors["features"].to(dtype))
    order = choose_determinantal(similarity, settings["retain"], quality)
    assert torch.equal(order.sort(dim=-1).values, tensors["kept"])


@each("cdpruner-embedding-*")
def test_cdpruner_of_openvino(name, dtype):
    settings, tensors = read(name)
    points, text = tensors["features"].to(dtype), tensors["text"].to(dtype)
    count, blend = settings["retain"], settings["relevance_weight"]
    parts, first = [(points, count)], 0
    keep, rated = [], []
    if settings["split"]:
        halves = points.tensor_split([len(points) // 2])
        parts = list(zip(halves, (count // 2, count - count // 2), strict=True))
    for part, share in parts:
        rated.append(scale_min_max(compare_words(part, text)[..., 0], below=1e-6))
        order = choose_determinantal(compare(part), share, rated[-1], blend=blend)
        keep.append(order.sort().values + first)
        first += len(part)
    relevance, keep = torch.cat(rated), torch.cat(keep)
    torch.testing.assert_close(relevance, tensors["relevance"].to(dtype), **within(dtype))
    assert torch.equal(keep, tensors["kept"])


@each("mmtok-*")
def test_mmtok(name, dtype):
    settings, tensors = read(name)
    rows = list_mmtok_rows(
        *(tensors[key].to(dtype) for key in ("text", "projected")),
        compare(tensors["features"].to(dtype)),
        text_temperature=settings["text_temperature"],
        visual_temperature=settings["visual_temperature"],
        alpha=settings["alpha"],
    )
    allowed = torch.arange(rows.shape[-1]) >= settings["excluded_first"]
    order = choose_coverage(rows, settings["retain"], allowed=allowed)
    assert torch.equal(order.sort().values, tensors["kept"])


def test_mmtok_rows():
    words = random(2, 3, 5)
    projected, features = random(2, 12, 5, seed=1), random(2, 12, 7, seed=2)
    rows = list_mmtok_rows(words, projected, compare(features))
    order = choose_coverage(rows, 6)
    for row in range(2):
        wanted = reference.mmtok_rows(words[row], projected[row], features[row])
        torch.testing.assert_close(rows.values[row], torch.tensor(wanted, dtype=torch.float64))
        assert order[row].tolist() == reference.coverage(wanted, 6)


@each("eadp-*")
def test_eadp(name, dtype):
    settings, tensors = read(name)
    points, text = tensors["features"].to(dtype), tensors["text"].to(dtype)
    score = score_eadp(points, text, tensors["text_mean"].to(dtype), share=settings["keep_words"])
    scaled = scale_min_max(score, above=1e-6, below=1e-6)
    importance = smooth(scaled, tuple(settings["grid"])) ** settings["beta"]
    torch.testing.assert_close(importance, tensors["importance"].to(dtype), **within(dtype))
    order = choose_coverage(compare(points), settings["retain"], demand=importance, floor=-1.0)
    assert torch.equal(order, tensors["order"])
    assert torch.equal(order.sort().values, tensors["kept"])


@pytest.mark.parametrize("words", [1, 4, 11])
def test_importance_of_eadp(words):
    points = random(2, 12, 6)
    text, mean = random(2, words, 6, seed=1), random(2, 1, 6, seed=2)
    importance = smooth(
        scale_min_max(score_eadp(points, text, mean), above=1e-6, below=1e-6), (3, 4)
    )
    for row in range(2):
        wanted = reference.eadp(points[row], text[row], mean[row], (3, 4))
        torch.testing.assert_close(importance[row], torch.tensor(wanted, dtype=torch.float64))


def test_a_single_row_is_smoothed_along_itself():
    score = random(5)
    square = smooth(score.repeat(3), (3, 5)).view(3, 5)
    torch.testing.assert_close(smooth(score, (1, 5)), square[1])
    torch.testing.assert_close(smooth(score, (5, 1)), square[1])


def test_equal_scores_are_scaled_to_one():
    assert scale_min_max(torch.zeros(2, 3), above=1e-6).tolist() == [[1.0] * 3] * 2
