"""The prefill benchmark: its structure, its counts and its oracle; never its speed."""

import json
import sys
from pathlib import Path

import pytest
import torch

from sparsight import SparseVLM, Sparsight, sparsify
from sparsight.bench.timing import Timing
from sparsight.engine.compat import output_cache
from tests.support.caches import cached

FOLDER = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture
def prefill(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import prefill

    yield prefill
    for name in ("prefill", "shapes"):
        sys.modules.pop(name, None)


@pytest.fixture
def built(prefill):
    from shapes import SHAPES, build

    model = build(SHAPES["tiny"], 16, torch.device("cpu"), torch.float64)
    return model, prefill.make_inputs(model, SHAPES["tiny"].visual_tokens, 16, 2)


@pytest.mark.parametrize("method", [None, "sparsevlm"])
def test_runs_and_writes_what_it_prints(prefill, tmp_path, capsys, method):
    out = tmp_path / "new" / "result.json"
    words = [
        "--shape",
        "tiny",
        "--retain",
        "12",
        "20",
        "--runs",
        "2",
        "--warm-up",
        "0",
        "--decode",
        "1",
    ]
    words += [] if method is None else ["--method", method]
    result = prefill.main([*words, "--text", "8", "--batch", "2", "--out", str(out)])
    last = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(last) == json.loads(out.read_text()) == json.loads(json.dumps(result))
    assert [budget["retain"] for budget in result["budgets"]] == [12, 20]
    for budget in result["budgets"]:
        for way in ("dense", "sparse", "oracle"):
            assert len(budget[way]["prefill_ms"]["runs"]) == 2
        assert (
            budget["oracle"]["prefill_flops"]
            <= budget["sparse"]["prefill_flops"]
            < budget["dense"]["prefill_flops"]
        )
        assert budget["oracle"]["kv_cache_bytes"] == budget["sparse"]["kv_cache_bytes"]
        assert sum(budget["visual_tokens_per_layer"]) / 8 <= budget["retain"]
        assert all(ratio > 0 for ratio in budget["ratios"].values())
    assert result["command"].startswith("python benchmarks/prefill.py --shape tiny")
    assert result["facts"]["threads"] == torch.get_num_threads()


@pytest.mark.parametrize("method", [SparseVLM(retain=12), Sparsight(retain=12)])
def test_the_oracle_processes_as_many_tokens_as_the_sparse_run(prefill, built, method):
    model, inputs = built
    with sparsify(model, method) as run, torch.no_grad():
        sparse = output_cache(model(**inputs, use_cache=True))
    with prefill.cut(model, run.stats.tokens_per_layer[0]), torch.no_grad():
        oracle = model(**inputs, use_cache=True)
        step = model(
            input_ids=inputs["input_ids"][:, -1:],
            attention_mask=torch.ones(2, inputs["input_ids"].shape[1] + 1),
            **cached(output_cache(oracle)),
        )
    lengths = [layer.keys.shape[-2] for layer in output_cache(oracle).layers]
    assert lengths == [layer.keys.shape[-2] + 1 for layer in sparse.layers]
    assert step.logits.isfinite().all()
    assert all(not layer._forward_pre_hooks for layer in model.model.language_model.layers)


def test_an_oracle_that_cuts_nothing_changes_nothing(prefill, built):
    model, inputs = built
    with torch.no_grad():
        dense = model(**inputs).logits
        with prefill.cut(model, [inputs["input_ids"].shape[1]] * 8):
            assert torch.equal(model(**inputs).logits, dense)


def test_the_oracle_is_exact(prefill, built):
    """The model is causal: logits of the first tokens do not depend on those behind them."""
    model, inputs = built
    with torch.no_grad():
        dense = output_cache(model(**inputs, use_cache=True)).layers[-1].keys
        with prefill.cut(model, [52, 52, 52, 30, 30, 30, 30, 20]):
            short = output_cache(model(**inputs, use_cache=True)).layers[-1].keys
    torch.testing.assert_close(short, dense[:, :, :20])


def test_ratios_are_medians_of_rounds(prefill, built):
    model, inputs = built
    stats = prefill.dry_run(model, inputs, SparseVLM(retain=12))
    # dense over oracle is 3, 6 and 2 in the rounds; of the medians it would be 9 / 4
    times = {"dense": (9.0, 90.0, 8.0), "sparse 12": (3.0, 45.0, 1.0), "oracle 12": (3, 15, 4)}
    timings = {
        name: {"prefill": Timing(ms), "decode": Timing((1.0, 2.0, 5.0))}
        for name, ms in times.items()
    }
    found = prefill.summarise(12, SparseVLM(retain=12), stats, timings)["ratios"]
    assert found["prefill_dense_over_sparse"] == pytest.approx(3)
    assert found["prefill_dense_over_oracle"] == pytest.approx(3)
    assert found["prefill_sparse_over_oracle"] == pytest.approx(1)
    assert found["decode_dense_over_sparse"] == pytest.approx(1)
    assert found["flops_dense_over_sparse"] == pytest.approx(
        stats.dense_prefill_flops / stats.prefill_flops
    )
