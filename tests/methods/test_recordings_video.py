"""EVS and VidCom2 end to end: of a recorded video the engine keeps what was recorded."""

import pytest
import torch

from sparsight import sparsify
from sparsight.methods import EVS, VidCom2
from tests.support import tiny_rotary
from tests.support.recordings import read

METHODS = {"evs": EVS, "vidcom2": VidCom2}


@pytest.mark.parametrize("name", ["evs-6x12x12-q50", "vidcom2-8x10x12-q75"])
@pytest.mark.parametrize("budget", ["share", "count"])
def test_videos(name, budget):
    settings, tensors = read(name)
    features, rate = tensors["features"].double(), settings["pruning_rate"]
    heads = {"num_attention_heads": 3, "num_key_value_heads": 1}
    model = tiny_rotary.model("qwen2", hidden_size=features.shape[-1], **heads)
    rows = [[3, ("video", *settings["grid"]), 5]]
    inputs = tiny_rotary.batch("qwen2", rows, torch.float64).inputs
    retain = 1 - rate if budget == "share" else len(tensors["kept"])
    method = METHODS[name.partition("-")[0]](retain)
    handle = model.model.visual.merger.register_forward_hook(lambda *_: features)
    try:
        with torch.no_grad(), sparsify(model, method) as run:
            model(**inputs, use_cache=False)
    finally:
        handle.remove()
    assert torch.equal(run.trace.samples[0][0].keep, tensors["kept"])
