"""EVS, VidCom2 and PixelPrune, against recordings and slow references."""

import pytest
import torch

from sparsight.methods.parts.choosers import top_k
from sparsight.methods.parts.patches import mark_unpredicted
from sparsight.methods.parts.tensors import rank_descending
from sparsight.methods.parts.video import (
    choose_vidcom2,
    count_frames,
    count_video,
    measure_commonness,
    score_change,
)
from tests.support import reference_merging as reference
from tests.support.recordings import each, read


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clip(name, dtype):
    settings, tensors = read(name)
    frames, height, width = settings["grid"]
    features = tensors["features"].to(dtype).view(frames, height * width, -1)
    return settings["pruning_rate"], features, tensors


@each("evs-*")
def test_evs(name, dtype):
    rate, features, tensors = clip(name, dtype)
    frames, size = features.shape[:2]
    keep = top_k(score_change(features), count_video(frames, size, rate, size))
    assert torch.equal(keep, tensors["kept"])
    assert keep[:size].tolist() == list(range(size))


def test_changes():
    features = random(2, 3, 5, 4)
    score = score_change(features)
    for row in range(2):
        wanted = torch.tensor(reference.changes(list(features[row])), dtype=torch.float64)
        torch.testing.assert_close(score[row], wanted)


def test_counts_are_floored_in_floating_point():
    assert count_video(5, 224, 0.8, 1) == 223
    assert count_video(4, 100, 0.9, 100) == 100


@each("vidcom2-*")
def test_vidcom2(name, dtype):
    rate, features, tensors = clip(name, dtype)
    frames, size = features.shape[:2]
    near_clip, near_frame = measure_commonness(features)
    counts = count_frames(near_clip, rate)
    assert torch.equal(counts, tensors["frame_counts_authors"])
    authors = rank_descending(-near_clip - near_frame) < counts[:, None]
    assert torch.equal(authors.flatten().nonzero().flatten(), tensors["kept_authors"])
    keep = choose_vidcom2(features, rate, count_video(frames, size, rate, frames))
    assert torch.equal(keep, tensors["kept"])


@pytest.mark.parametrize("rate", [0.05, 0.6, 0.99])
@pytest.mark.parametrize("count", [3, 10, 30])
def test_vidcom2_in_a_batch(count, rate):
    features = random(2, 3, 12, 8) + 0.5
    keep = choose_vidcom2(features, rate, count)
    near_clip, _ = measure_commonness(features)
    for row in range(2):
        _, counts, exact = reference.vidcom2(list(features[row]), rate, count)
        assert count_frames(near_clip, rate)[row].tolist() == counts
        assert keep[row].tolist() == exact


@each("pixelprune-*")
def test_pixelprune(name, dtype):
    settings, tensors = read(name)
    grid = tuple(settings["grid"])
    pixels = tensors["pixels"].to(dtype).view(grid[0] * grid[1], -1)
    kept = mark_unpredicted(pixels, grid, settings["tau"], settings["metric"])
    assert torch.equal(kept.nonzero().flatten(), tensors["kept"])


@pytest.mark.parametrize("grid", [(6, 9), (1, 8), (8, 1), (1, 1)])
@pytest.mark.parametrize("metric", ["max", "mean", "rms"])
@pytest.mark.parametrize("tolerance", [0.0, 0.3])
def test_predictions(grid, metric, tolerance):
    # few values, so that many tokens are alike
    pixels = (random(2, grid[0] * grid[1], 2) / 2).round().div(4)
    kept = mark_unpredicted(pixels, grid, tolerance, metric)
    for row in range(2):
        wanted = reference.unpredicted(pixels[row].tolist(), grid, tolerance, metric)
        assert kept[row].nonzero().flatten().tolist() == wanted
