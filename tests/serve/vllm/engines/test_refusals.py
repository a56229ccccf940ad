"""What is refused, at the start or in a request, and that the engine lives on."""

import math

import numpy as np
import pytest
import torch

from tests.serve.vllm.engines.conftest import CASES, WORKER
from tests.support.vllm_engine import Request, ask, engine, picture, said

LLAVA, QWEN = CASES["llava"], CASES["qwen2_5_vl"]
IMAGE = picture(3, 112, 112)
PROMPT = "USER : <image> what color is the shape ? ASSISTANT :"
BAD = [0, -3, "x", "64", True, math.nan, 1.5, 64.0, 1e9, None, [64]]


@pytest.fixture(scope="module")
def llm(folder_of):
    given = {"method": "sparsight", "retain": 16}
    with engine(folder_of("llava"), LLAVA.architecture, given, enable_mm_embeds=True) as made:
        yield made


def send(llm, given, image=IMAGE):
    request = {"prompt": PROMPT, "multi_modal_data": {"image": [image]}}
    return llm.generate([{**request, "mm_processor_kwargs": given}], use_tqdm=False)


@pytest.mark.parametrize("value", BAD, ids=repr)
def test_bad_budgets_are_refused_and_the_engine_lives_on(llm, value):
    before = said(ask(llm, [Request(PROMPT, (IMAGE,), 9)]))
    with pytest.raises(ValueError, match="retain"):
        send(llm, {"sparsight_retain": value})
    assert said(ask(llm, [Request(PROMPT, (IMAGE,), 9)])) == before


@pytest.mark.parametrize("key", ["sparsight_budget", "sparsight_method"])
def test_unknown_entries_are_refused(llm, key):
    with pytest.raises(ValueError, match="is not known"):
        send(llm, {key: "uniform"})


def test_a_fraction_below_one_token_is_refused(llm):
    with pytest.raises(ValueError, match="cannot be met"):
        send(llm, {"sparsight_retain": 0.001})
    assert said(ask(llm, [Request(PROMPT, (IMAGE,))]))


def test_embeddings_of_an_image_are_refused(llm):
    with pytest.raises(ValueError, match="give the image itself"):
        send(llm, {}, torch.zeros(64, 128))
    assert said(ask(llm, [Request(PROMPT, (IMAGE,))]))


@pytest.mark.parametrize(
    ("sparsight", "options", "message"),
    [
        ({"method": "fastv"}, {}, "does not run in vLLM"),
        ({"method": "sparsevlm", "retain": 64}, {}, "block table"),
        ({"retain": 0}, {}, "retain=0"),
        ({"method": "cdpruner", "settings": {"space": "features"}}, {}, "set space='tokens'"),
        ({}, {"mm_processor_kwargs": {"sparsight_retain": 9}}, "hf_overrides"),
    ],
)
def test_an_engine_that_cannot_work_does_not_start(folder_of, sparsight, options, message, capfd):
    with (
        pytest.raises(Exception) as refused,  # noqa: PT011  # vLLM wraps some
        engine(folder_of("llava"), LLAVA.architecture, sparsight, **options),
    ):
        pass
    said_there = capfd.readouterr()
    assert message in str(refused.value) + said_there.err + said_there.out


def test_qwen_on_a_cpu_needs_our_worker_and_takes_no_videos(folder_of, capfd):
    from vllm.exceptions import VLLMValidationError

    folder, given = folder_of("qwen2_5_vl"), {"retain": 0.5}
    with pytest.raises(Exception) as refused, engine(folder, QWEN.architecture, given):  # noqa: PT011
        pass
    assert "SparseCPUWorker" in str(refused.value) + capfd.readouterr().err
    with engine(folder, QWEN.architecture, given, worker_cls=WORKER) as llm:
        facts = {"fps": 2.0, "duration": 2.0, "total_num_frames": 4, "frames_indices": [0, 1, 2, 3]}
        video = (np.zeros((4, 56, 56, 3), dtype=np.uint8), {**facts, "video_backend": "opencv"})
        text = "USER : <|vision_start|><|video_pad|><|vision_end|> w9 ASSISTANT :"
        with pytest.raises(VLLMValidationError, match="At most 0 video"):
            llm.generate([{"prompt": text, "multi_modal_data": {"video": [video]}}])
        pads = "<|image_pad|>"
        with pytest.raises(ValueError, match="followed by another one"):
            ask(llm, [Request(f"USER : {pads}{pads} w9 ASSISTANT :", (IMAGE, IMAGE))])
        assert said(ask(llm, [Request(f"USER : {QWEN.shown} w9 ASSISTANT :", (IMAGE,))]))
