"""Choices inside the decoder, against recordings and slow references."""

import pytest
import torch

from sparsight.methods.parts.choosers import choose_discounted, numerical_rank, top_k
from sparsight.methods.parts.coverage import choose_tops
from sparsight.methods.parts.decoder_choices import (
    choose_pivots,
    choose_unlike_pivots,
)
from sparsight.methods.parts.geometry import compare
from sparsight.methods.parts.merging import density_peaks, merge
from sparsight.methods.parts.scores import measure_key_norm, score_last_attention
from sparsight.methods.parts.tensors import list_others
from sparsight.methods.parts.words import measure_residual, sum_strongest_heads
from tests.support import reference_attention, reference_diversity
from tests.support.recordings import each, read, within


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def project(hidden, norm, weight, heads):
    """q or k of a layer that rotates by Llama's rule, (H, n, d)."""
    hidden = hidden / (hidden.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * norm
    vectors = (hidden @ weight.T).unflatten(-1, (heads, -1)).transpose(0, 1)
    width = vectors.shape[-1]
    frequencies = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.outer(torch.arange(len(hidden), dtype=torch.float64), frequencies)
    return reference_attention.turn(vectors, angles.to(hidden.dtype))


@each("pdrop-*", "vscan-decoder-*")
def test_pyramiddrop(name, dtype):
    settings, tensors = read(name)
    for sample, (before, _) in enumerate(settings["text_before_after"]):
        hidden = tensors["inputs"][sample, : tensors["lengths"][sample]].to(dtype)
        present = settings["visual"]
        for site, plan in zip(settings["sites"], settings["plan"], strict=True):
            norm, *weights = (
                tensors[f"{part}.{site}"].to(dtype)
                for part in ("norm", "q_proj", "k_proj")
                if f"{part}.{site}" in tensors
            )
            query, key = (project(hidden, norm, weight, settings["heads"]) for weight in weights)
            visual = torch.arange(before, before + present)
            score = score_last_attention(query[:, -1], key, visual)
            row = reference_attention.last_row(hidden, norm, *weights, heads=settings["heads"])
            torch.testing.assert_close(
                score, torch.tensor(row)[visual].to(dtype), rtol=0, atol=1e-6
            )
            count = plan if settings["plan_is"] == "counts" else int(settings["visual"] * plan)
            keep = top_k(score, count)
            assert torch.equal(keep, tensors[f"kept.{site}.{sample}"])
            hidden = torch.cat([hidden[:before], hidden[visual[keep]], hidden[before + present :]])
            present = count


@each("dart-*")
def test_dart(name, dtype):
    settings, tensors = read(name)
    first, length = settings["image_token_start_index"], settings["image_token_length"]
    hidden, keys = tensors["hidden"].to(dtype), tensors["keys"].to(dtype)
    visual = torch.arange(first, first + length)
    text = torch.arange(first + length, len(hidden))
    pivots = choose_pivots(measure_key_norm(keys), visual, text, 4, 4)
    assert set(pivots.tolist()) == set(tensors["pivot_order"].tolist())
    each_pivot = (
        settings["max_num_trunction"] or int(length * (1 - settings["reduction_ratio"]))
    ) // 8
    counts = (each_pivot,) * 8
    order = choose_unlike_pivots(hidden, tensors["pivot_order"], visual, counts, 4)
    assert torch.equal(order.sort().values, tensors["kept"])
    ordered = choose_unlike_pivots(hidden, pivots, visual, counts, 4)
    wanted = reference_attention.dart(hidden, pivots.tolist(), visual.tolist(), counts)
    assert ordered.sort().values.tolist() == wanted


def test_dart_in_a_batch():
    hidden, keys = random(3, 40, 6), random(3, 2, 40, 4, seed=1)
    visual, text = torch.arange(5, 30).expand(3, -1), torch.arange(30, 40).expand(3, -1)
    pivots = choose_pivots(measure_key_norm(keys), visual, text, 2, 3)
    counts = (4, 4, 3, 3, 3)
    order = choose_unlike_pivots(hidden, pivots, visual, counts, 2)
    for row in range(3):
        norm = keys[row].abs().sum(dim=(0, 2))
        images = reference_attention.ranked(norm, range(5, 30))[:2]
        wanted = images + reference_attention.ranked(norm, range(30, 40))[:3]
        assert pivots[row].tolist() == wanted
        chosen = reference_attention.dart(hidden[row], wanted, list(range(5, 30)), counts)
        assert order[row].sort().values.tolist() == chosen


def test_pivots_of_short_texts():
    """Three words for five pivots, in a batch with a longer text."""
    norm = random(2, 20).abs()
    visual, text = torch.arange(12).expand(2, -1), torch.arange(12, 20).expand(2, -1)
    present = torch.arange(8) < torch.tensor([[8], [3]])
    pivots = choose_pivots(norm, visual, text, 2, 5, present=present)
    best = reference_attention.ranked(norm[1], range(12, 15))
    assert pivots[1, 2:].tolist() == [*best, *best[:2]]
    assert pivots[0, 2:].tolist() == reference_attention.ranked(norm[0], range(12, 20))[:5]
    alone = choose_pivots(norm[1], visual[1], text[1, :3], 2, 5)
    assert torch.equal(alone, pivots[1])


@each("sieve-*")
def test_sieve(name, dtype):
    settings, tensors = read(name)
    visual, text = tensors["visual"].to(dtype), tensors["text"].to(dtype)
    residual = measure_residual(visual, text, settings["eta"], settings["epsilon"])
    torch.testing.assert_close(
        residual.ratio, tensors["residual_ratio"].to(dtype), rtol=0, atol=1e-6
    )
    attention = sum_strongest_heads(tensors["attention"].to(dtype), settings["heads"])
    score = (attention * residual.ratio).square()
    order = choose_discounted(score, compare(residual.points), settings["retain"])
    assert torch.equal(order, tensors["order"])
    assert torch.equal(order.sort().values, tensors["kept"])


@pytest.mark.parametrize("eta", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("words", [2, 5, 12])
def test_residuals(words, eta):
    visual, text = random(2, 15, 8), random(2, words, 8, seed=1)
    residual = measure_residual(visual, text, eta)
    for row in range(2):
        points, ratio = reference_diversity.residuals(visual[row], text[row], eta)
        torch.testing.assert_close(residual.points[row], points, rtol=0, atol=1e-6)
        torch.testing.assert_close(residual.ratio[row], ratio, rtol=0, atol=1e-6)


@pytest.mark.parametrize("eta", [0.3, 0.75, 0.999999])
def test_rows_that_do_not_count_explain_nothing(eta):
    visual, text = random(3, 15, 8), random(3, 6, 8, seed=1)
    counts = torch.tensor([6, 4, 1])
    present = torch.arange(6) < counts[:, None]
    residual = measure_residual(visual, text, eta, present=present)
    for row, count in enumerate(counts.tolist()):
        alone = measure_residual(visual[row], text[row, :count], eta)
        torch.testing.assert_close(residual.points[row], alone.points)
        torch.testing.assert_close(residual.ratio[row], alone.ratio)
    torch.testing.assert_close(residual.ratio[2], torch.ones(15, dtype=torch.float64))


def test_strongest_heads():
    attention = random(2, 5, 9).abs()
    summed = sum_strongest_heads(attention, 2)
    for row in range(2):
        heads = reference_attention.ranked([head.sum() for head in attention[row]])[:2]
        torch.testing.assert_close(summed[row], attention[row, heads].sum(dim=0))


@each("tops-*")
def test_tops(name, dtype):
    settings, tensors = read(name)
    order = choose_tops(
        tensors["relevance"].to(dtype),
        compare(tensors["features"].to(dtype)),
        settings["retain"],
        alpha=settings["alpha"],
        coverage_weight=settings["lam"],
        scale=settings["normalise"],
    )
    assert torch.equal(order, tensors["order"])


@pytest.mark.parametrize("scale", ["mean", "min-max"])
@pytest.mark.parametrize("seed", range(3))
def test_sums_of_tops(scale, seed):
    points, relevance = random(2, 24, 5, seed=seed), random(2, 24, seed=seed + 50).abs()
    order = choose_tops(relevance, compare(points), 24, alpha=0.3, coverage_weight=0.7, scale=scale)
    for row in range(2):
        alike = reference_diversity.cosines(points[row])
        # the last two are alike in every scaled term, and rounding may order them
        wanted = reference_diversity.tops(
            relevance[row], alike, 22, alpha=0.3, weight=0.7, scale=scale
        )
        assert order[row, :22].tolist() == wanted


@each("sparsevlm-rank-*")
def test_rank_of_rater_attention_as_the_count(name, dtype):
    settings, tensors = read(name)
    first, visual = settings["text_before"], settings["visual"]
    attention = tensors["attention_text_rows"][:, tensors["raters"], first : first + visual]
    rows = attention.mean(dim=0)
    rank = numerical_rank(rows)
    assert rank == len(tensors["kept"])
    score = rows.to(dtype).mean(dim=0)
    torch.testing.assert_close(score, tensors["score"].to(dtype), **within(dtype))
    keep = top_k(score, rank)
    assert torch.equal(keep, tensors["kept"])
    others = list_others(keep, visual)
    pool = others[top_k(score[others], int(0.3 * (visual - rank)) + 1)]
    points = tensors["hidden"][first + pool].to(dtype)
    clusters = len(pool) // 10 + 1
    _, labels = density_peaks(points, clusters)
    merged = merge(points, labels, clusters, "mean")
    recycled = tensors["recycled"].to(dtype)
    assert merged.shape == recycled.shape
    # clusters are numbered by peak score in both, but equal scores in any order
    apart = (merged[:, None] - recycled).abs().amax(dim=-1)
    assert (apart.amin(dim=0) < 1e-5).all()
