"""Timing helpers: order, warm-up, medians, and the facts beside them."""

import json
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch

from sparsight import SparseVLM, sparsify
from sparsight.bench.timing import (
    Timing,
    collect_facts,
    interleave,
    read_commit,
    read_cpu_name,
    time_generation,
)
from tests.support import tiny, tiny_rotary


def test_takes_the_median():
    found = Timing((3.0, 1.0, 200.0)).as_dict()
    assert found == {"median": 3.0, "min": 1.0, "max": 200.0, "runs": [3.0, 1.0, 200.0]}


def test_interleaves_and_leaves_the_warm_up_out():
    order, seen = [], []

    def task(name):
        def go():
            order.append(name)
            return {"ms": float(len(order))}

        return go

    found = interleave(
        {"a": task("a"), "b": task("b")}, runs=2, warm_up=1, report=lambda *at: seen.append(at)
    )
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": {"ms": Timing((4.0, 5.0))}, "b": {"ms": Timing((3.0, 6.0))}}
    assert seen == [(i, 6) for i in range(6)]


@pytest.mark.parametrize("pruned", [False, True])
def test_times_a_generation_and_leaves_no_trace(pruned):
    model, inputs = tiny.tiny_llava(), tiny.batch([["image", 6]]).inputs
    decoder = model.model.language_model
    if pruned:
        with sparsify(model, SparseVLM(retain=12)) as run:
            found = time_generation(model, inputs, 2)
            assert run.stats.visual_tokens == (tiny.VISUAL,)
    else:
        found = time_generation(model, inputs, 2)
    assert set(found) == {"ttft", "prefill", "decode"}
    assert found["ttft"] > found["prefill"] > 0 < found["decode"]
    assert not decoder._forward_hooks
    assert not decoder._forward_pre_hooks


@pytest.mark.parametrize("pruned", [False, True])
def test_times_models_with_several_positions_a_token(pruned):
    """Given a mask, such a model would take the positions of the whole prompt for one token."""
    model = tiny_rotary.model("qwen2")
    inputs = tiny_rotary.batch("qwen2", [[("video", 2, 2, 3), 6]], model.dtype).inputs
    with sparsify(model, SparseVLM(retain=0.5)) if pruned else nullcontext():
        found = time_generation(model, inputs, 2)
    assert set(found) == {"ttft", "prefill", "decode"}


def test_takes_its_hooks_off_after_an_error():
    model, inputs = tiny.tiny_llava(), tiny.batch([["image", 6]]).inputs
    with pytest.raises(ValueError, match="tokens"):
        time_generation(model, {**inputs, "input_ids": inputs["input_ids"][:, 5:]}, 2)
    assert not model.model.language_model._forward_hooks


def test_facts_are_json():
    found = collect_facts(torch.device("cpu"), torch.bfloat16)
    assert json.loads(json.dumps(found)) == found
    assert found["dtype"] == "bfloat16"
    assert found["cpu"]
    assert found["gpu"] is None


def test_names_the_processor(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nmodel name\t: Fast: 9000\n")
    assert read_cpu_name(info) == "Fast: 9000"
    assert read_cpu_name(tmp_path / "nothing") == read_cpu_name(tmp_path / "less")


def test_names_no_commit_of_somebody_elses_repository(tmp_path):
    package = tmp_path / "lib" / "sparsight"
    package.mkdir(parents=True)
    assert read_commit(package) is None
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    assert read_commit(package) is None


def test_module_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "sparsight", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("sparsight ")
