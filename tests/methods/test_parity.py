"""Choices against the slow reference: raters, scores, tokens kept, clusters, rebuilt values."""

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight import sparsify
from sparsight.errors import UnsupportedError
from sparsight.methods import Downscale, Pool, Random, SparseVLM, SparseVLMPlus, Uniform
from sparsight.methods.parts.choosers import numerical_rank, top_k
from sparsight.methods.parts.merging import density_peaks, merge
from sparsight.methods.parts.raters import measure_shares
from sparsight.methods.sparsevlm_plus import tabulate_prior
from sparsight.methods.view import View
from sparsight.sequence.rater_rows import AttentionCall, RaterRows
from tests.support import contract, dense, reference, tiny
from tests.support.cases import LAYOUTS, METHODS, tiny_model

EXTREME = {
    "one site": SparseVLM(retain=0.6, sites=(4,)),
    "first site": SparseVLM(retain=0.2, sites=(1,)),
    "last site": SparseVLM(retain=0.9, sites=(7,)),
    "every layer": SparseVLM(retain=0.5, sites=(1, 2, 3, 4, 5, 6, 7)),
    "tiny": SparseVLM(retain=0.16),
    "all clustered": SparseVLM(retain=0.5, tau=1.0, theta=1.0),
    "all clustered, sum, kept places": SparseVLM(
        retain=0.5, tau=1.0, theta=0.5, aggregate="sum", positions="keep"
    ),
    "one left": SparseVLM(sites=(1, 2), kept=(1, 1), retain=1.0),
    "one left, kept places": SparseVLM(sites=(1, 2), kept=(1, 1), retain=1.0, positions="keep"),
    "strict rank": SparseVLM(level="rank", retain=None, prune_scale=1.0, rank_tolerance=0.05),
    "fractional rank": SparseVLM(level="rank", retain=0.9, prune_scale=0.3, recycle=False),
    "authors": SparseVLM(retain=0.5, accounting="authors"),
    "one head": SparseVLMPlus(retain=0.5, heads=1),
    "all heads": SparseVLMPlus(retain=0.5, heads=14, prior_floor=1.0),
    "random inside": Random(retain=0.5, sites=(1, 2, 4), seed=9),
    "uniform, few": Uniform(retain=1),
    "uniform inside": Uniform(retain=0.6, sites=(2, 3, 4)),
    "pool, few": Pool(retain=1),
    "pool, many": Pool(retain=0.95),
    "downscale, kept places": Downscale(retain=0.35, positions="keep"),
}


IMAGES = ("one", "unequal images", "several images", "adjacent images", "one word")
CASES = [
    *itertools.product(METHODS, ["sdpa"], IMAGES),
    *itertools.product(METHODS, ["eager"], ["unequal images"]),
    *itertools.product(EXTREME, ["sdpa"], ["unequal images", "adjacent images"]),
]


@pytest.mark.parametrize(("method", "kernel", "layout"), CASES)
def test_every_choice_is_that_of_the_reference(method, kernel, layout):
    method = {**METHODS, **EXTREME}[method]
    model, exact = tiny_model(kernel), tiny_model("sdpa")
    batch = tiny.batch(LAYOUTS[layout], dtype=model.dtype)
    with sparsify(model, method) as run, torch.no_grad():
        logits = model(**batch.inputs).logits
    for b, alone in enumerate(batch.alone):
        turn = dense.turn(exact, {**alone, "pixel_values": alone["pixel_values"].double()})
        want = dense.Reference(exact, method).run(turn)
        pads = batch.inputs["input_ids"].shape[1] - len(turn.ids)
        assert (run.trace.raters[b] - pads).tolist() == want.raters[0]
        for step, wanted in zip(run.trace.samples[b], want.steps[0], strict=True):
            same_step(step, wanted)
        assert tuple(map(len, want.stored)) == run.stats.tokens_per_layer[b]
        contract.close(logits[b, -len(want.logits) :], want.logits.to(logits.dtype), f"sample {b}")


def same_step(step, wanted):
    for name in ("site", "present", "keep", "pool", "labels", "centres"):
        found = getattr(step, name)
        assert (found if name == "site" else found.tolist()) == getattr(wanted, name), (
            f"{name} at site {step.site}"
        )
    if wanted.score is None:
        assert step.score is None
        return
    score = torch.tensor(wanted.score, dtype=step.score.dtype)
    torch.testing.assert_close(
        step.score, score, rtol=1e-3 if score.dtype == torch.float32 else 1e-5, atol=1e-8
    )


# ---- raters and scores


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    visual=st.integers(1, 12),
    text=st.integers(1, 12),
    scale=st.sampled_from([0.0, 1e-3, 1, 50]),
)
def test_raters_are_those_of_the_reference(seed, visual, text, scale):
    random = torch.Generator().manual_seed(seed)
    v, t = (
        torch.randn(n, 6, generator=random, dtype=torch.float64) * scale for n in (visual, text)
    )
    mass = measure_shares(v, t)
    assert math.isclose(float(mass.sum()), 1, rel_tol=1e-9)
    chosen = SparseVLM().raters(v, t)
    assert chosen.any()
    tied = bool(torch.isclose(mass, mass.mean(), rtol=1e-9).any())  # then the last bit decides
    if scale and not tied:
        assert chosen.nonzero().flatten().tolist() == reference.rate(v, t)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("text", [1, 2, 3, 7, 10, 49])
def test_equal_text_tokens_all_rate(text, dtype):
    chosen = SparseVLM().raters(torch.randn(5, 8, dtype=dtype), torch.ones(text, 8, dtype=dtype))
    assert chosen.all()


def call(seed, past=0, mask=None, softcap=None, queries=7):
    random = torch.Generator().manual_seed(seed)
    q = torch.randn(2, 4, queries, 6, generator=random, dtype=torch.float64)
    k = torch.randn(2, 2, queries + past, 6, generator=random, dtype=torch.float64)
    return AttentionCall(q, k, mask, 0.4, softcap)


def full_attention(made, sample):
    """The whole map, head by head and row by row."""
    heads, queries = made.query.shape[1:3]
    keys, past = made.key.shape[2], made.key.shape[2] - made.query.shape[2]
    result = torch.zeros(heads, queries, keys, dtype=torch.float64)
    for h in range(heads):
        for i in range(queries):
            logits = []
            for j in range(keys):
                value = float(made.query[sample, h, i] @ made.key[sample, h // 2, j]) * made.scaling
                value = (
                    value
                    if made.softcap is None
                    else math.tanh(value / made.softcap) * made.softcap
                )
                allowed = j <= i + past if made.mask is None else bool(made.mask[sample, 0, i, j])
                logits.append(value if allowed else -math.inf)
            result[h, i] = torch.tensor(logits, dtype=torch.float64).softmax(dim=-1)
    return result


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("kind", ["none", "bool", "float"])
@pytest.mark.parametrize("past", [0, 3])
@pytest.mark.parametrize("chunk", [1, 10**9])
def test_rater_rows_are_rows_of_the_full_map(monkeypatch, past, kind, softcap, chunk):
    monkeypatch.setattr("sparsight.sequence.rater_rows.CHUNK_BYTES", chunk)
    mask = torch.ones(7, 7 + past).tril(past).bool().repeat(2, 1, 1, 1)
    mask[1, :, 2:, 1] = False
    made = call(3, past, mask=None if kind == "none" else mask, softcap=softcap)
    rows, columns = torch.tensor([6, 2, 4]), torch.tensor([1, 0, 5])
    want = [full_attention(made, sample)[:, rows][..., columns] for sample in (0, 1)]
    if kind == "float":
        added = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(
            ~mask, torch.finfo(torch.float64).min
        )
        made = call(3, past, mask=added, softcap=softcap)
    weight = torch.rand(3, 3, dtype=torch.float64)
    for samples in ([0], [1], [1, 0], None):
        taken = None if samples is None else torch.tensor(samples)
        group = len(samples or want)
        own = RaterRows(made, taken, rows.expand(group, -1), columns.expand(group, -1))
        for place, sample in enumerate(samples or (0, 1)):
            torch.testing.assert_close(own.mean_over_heads()[place], want[sample].mean(dim=0))
            torch.testing.assert_close(own.mean()[place], want[sample].mean(dim=(0, 1)))
            torch.testing.assert_close(own.mean_over_raters()[place], want[sample].mean(dim=1))
            weighed = own.mean_over_raters(weight.expand(group, -1, -1))[place]
            torch.testing.assert_close(weighed, (want[sample] * weight).mean(dim=1))
    # a sample with two raters beside one with three
    present = torch.tensor([[True, True, False], [True, True, True]])
    own = RaterRows(made, None, rows.expand(2, -1), columns.expand(2, -1), present)
    assert not own.mean_over_heads()[0, 2].any()
    for sample, count in ((0, 2), (1, 3)):
        torch.testing.assert_close(own.mean()[sample], want[sample][:, :count].mean(dim=(0, 1)))
        weighed = (want[sample] * weight)[:, :count].mean(dim=1)
        torch.testing.assert_close(own.mean_over_raters(weight.expand(2, -1, -1))[sample], weighed)


def test_marker_values_read_the_same_score():
    """A one-hot marker on each visual key, read at the rater rows, is the attention to it."""
    made = call(5)
    rows = torch.tensor([4, 6])
    columns = torch.arange(1, 4)
    markers = torch.zeros(7, 3, dtype=torch.float64)
    markers[columns, torch.arange(3)] = 1
    read = (full_attention(made, 0) @ markers)[:, rows].mean(dim=(0, 1))
    torch.testing.assert_close(
        RaterRows(made, torch.tensor([0]), rows[None], columns[None]).mean()[0], read
    )


def test_the_rope_prior_has_the_published_values():
    frequencies = 1 / 10000 ** (torch.arange(0, 128, 2).double() / 128)
    table = tabulate_prior(1800, frequencies, 1e-6)
    assert float(table[0]) == pytest.approx(math.sqrt(128), rel=1e-6)
    assert float(table[477]) == pytest.approx(3.346, abs=1e-3)
    assert float(table.min()) > 0
    assert (
        int((table <= 1.1e-6 * math.sqrt(128)).nonzero()[0]) == 1707
    )  # the first that would be negative
    floored = tabulate_prior(1800, frequencies, 0.1)
    assert torch.equal(floored[:700], table[:700])
    for distance in (0, 1, 50, 300, 1707, 1799):
        assert float(floored[distance]) == pytest.approx(
            reference.prior(distance, 10000, 128, 0.1), rel=1e-4
        )


def test_plus_needs_rotary_frequencies():
    where = torch.arange(4)[None]
    view = View(
        1,
        2,
        2,
        torch.zeros(1, 4, 6),
        where * 0,
        RaterRows(call(1), torch.tensor([0]), where, where),
    )
    with pytest.raises(UnsupportedError, match=r"rotary positions; use SparseVLM"):
        SparseVLMPlus().select(view)
    with pytest.raises(UnsupportedError, match=r"rotary positions; use SparseVLM"):
        SparseVLMPlus().select(dataclasses.replace(view, attention=None))


# ---- choosing


@st.composite
def scored(draw):
    size = draw(st.integers(1, 20))
    score = draw(
        st.lists(st.sampled_from([0.0, 0.5, 1.0, -2.0, 1e-30]), min_size=size, max_size=size)
    )
    steps = draw(st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=size, max_size=size))
    images = [sum(steps[: i + 1]) for i in range(size)]  # gaps: images that are gone already
    return score, images, draw(st.integers(1, size))


@settings(max_examples=300, deadline=None)
@given(scored())
def test_top_k_breaks_ties_by_index_and_keeps_every_image(case):
    score, images, count = case
    tensor = torch.tensor(score, dtype=torch.float64)
    assert top_k(tensor, count).tolist() == reference.choose(score, count)
    assert top_k(tensor, count, torch.tensor(images)).tolist() == reference.choose(
        score, count, images
    )


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (4, 9), (12, 3)])
@pytest.mark.parametrize("tolerance", [None, 0.1, 0.5])
def test_the_numerical_rank_is_that_of_the_reference(shape, tolerance):
    random = torch.Generator().manual_seed(0)
    for rank in range(1, min(shape) + 1):
        parts = (
            torch.rand(shape[0], rank, generator=random),
            torch.rand(rank, shape[1], generator=random),
        )
        matrix = (parts[0] @ parts[1]).softmax(dim=-1)
        assert numerical_rank(matrix, tolerance) == reference.rank_of(matrix.tolist(), tolerance)
    assert numerical_rank(torch.ones(shape), tolerance) == 1


# ---- recycling


def same_clusters(points, clusters):
    centres, labels = density_peaks(points, clusters)
    want_centres, want_labels = reference.density_peaks(points.tolist(), clusters)
    assert centres.tolist() == want_centres
    assert labels.tolist() == want_labels
    return labels


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 24), share=st.floats(0, 1))
def test_clusters_of_random_points_are_those_of_the_reference(seed, count, share):
    points = torch.randn(
        count, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    clusters = max(1, round(share * count))
    labels = same_clusters(points, clusters)
    for aggregate in ("mean", "sum"):
        want = reference.merge(points.tolist(), labels.tolist(), clusters, aggregate)
        got = merge(points, labels, clusters, aggregate)
        torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64))


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_clusters_of_equal_points_are_those_of_the_reference(count):
    for value in (0.0, 1.0, 0.1, 1e6 / 3):
        for clusters in range(1, count + 1):
            same_clusters(torch.full((count, 7), value, dtype=torch.float64), clusters)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    kinds=st.integers(1, 5),
    count=st.integers(2, 14),
    share=st.floats(0, 1),
)
def test_duplicated_points_go_to_their_nearest_centre(seed, kinds, count, share):
    random = torch.Generator().manual_seed(seed)
    different = torch.randn(kinds, 6, generator=random, dtype=torch.float64)
    points = different[torch.randint(0, kinds, (count,), generator=random)]
    clusters = max(1, round(share * count))
    centres, labels = density_peaks(points, clusters)
    assert len(set(centres.tolist())) == clusters
    assert labels[centres].tolist() == list(range(clusters))
    # which of two equal points leads may hang on the last bit of a distance; where the others go
    # may not
    far = torch.cdist(points, points[centres])
    others = torch.tensor([i not in centres.tolist() for i in range(count)])
    chosen = far.gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(chosen[others], far.amin(dim=1)[others], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_points_cluster_finitely(dtype):
    points = (torch.randn(30, 64, generator=torch.Generator().manual_seed(0)) * 100 + 500).to(dtype)
    centres, labels = density_peaks(points, 4)
    assert len(set(centres.tolist())) == 4
    assert sorted(set(labels.tolist())) == [0, 1, 2, 3]
    merged = merge(points, labels, 4, "mean")
    assert merged.dtype == dtype
    assert merged.isfinite().all()
