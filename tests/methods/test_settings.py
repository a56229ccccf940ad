"""A field exists only where it acts: another value of it changes what happens, or is refused."""

from dataclasses import fields

import pytest
import torch

from sparsight import sparsify
from sparsight.cli.method import cli_name
from sparsight.errors import SparsightError
from sparsight.methods import (
    SCOPE,
    DivPrune,
    Downscale,
    FastV,
    HiPrune,
    PixelPrune,
    Pool,
    Random,
    SparseVLM,
    SparseVLMPlus,
    ToMe,
    Uniform,
    VisionZip,
    VisPruner,
    methods,
)
from tests.support import tiny, tiny_rotary
from tests.support.cases import tiny_model
from tests.support.pages import pages

KEPT = {"sites": (2, 5), "kept": (14, 9)}
EVERYWHERE = {
    "retain": ({}, 0.6),
    "sites": ({}, (2, 6)),
    "positions": ({"positions": "keep"}, "renumber"),
}
# field: the settings beside it, if not the defaults, and another value of it
CHANGES = {
    SparseVLM: {
        **EVERYWHERE,
        "level": ({}, "rank"),
        "recycle": ({}, False),
        "aggregate": ({}, "sum"),
        "accounting": ({}, "authors"),
        "tau": ({}, 0.9),
        "theta": ({}, 0.9),
        "prune_scale": ({"level": "rank", "retain": None}, 1.0),
        "rank_tolerance": ({"level": "rank", "retain": None}, 0.9),
        "kept": (KEPT, (14, 8)),
    },
    SparseVLMPlus: {
        **EVERYWHERE,
        "accounting": ({}, "authors"),
        "kept": (KEPT, (14, 8)),
        "heads": ({}, 1),
        "prior_floor": ({}, 1.0),
    },
    FastV: {
        **EVERYWHERE,
        "sites": ({}, (3,)),
        "rater": ({}, "all"),
        "kept": ({"kept": (14,)}, (13,)),
    },
    HiPrune: {**EVERYWHERE, "alpha": ({}, 1.0), "object_block": ({"alpha": 1.0}, 0)},
    VisPruner: {
        **EVERYWHERE,
        "ratio": ({}, 0.9),
        "score": ({}, "received"),
        "step": ({"ratio": 0.2}, 1),
    },
    VisionZip: {
        **EVERYWHERE,
        "contextual": ({}, 0.5),
        "score": ({}, "received"),
        "merge": ({}, "tokens"),
    },
    DivPrune: {**EVERYWHERE, "centred": ({}, True), "space": ({}, "features")},
    SCOPE: {**EVERYWHERE, "alpha": ({}, 3.0), "score": ({}, "received")},
    ToMe: {  # the tiny model's one block leaves half of the tokens
        "retain": ({"retain": 0.7}, 0.6),
        "sites": ({"retain": 0.6}, (2, 6)),
        "positions": ({"retain": 0.6}, "renumber"),
    },
    PixelPrune: {
        "retain": ({"retain": 0.9}, 1.0),
        "sites": ({"retain": 0.9}, (2, 6)),
        "positions": ({"retain": 0.9}, "renumber"),
        "tau": ({"retain": 0.9}, 1.0),
        "metric": ({"retain": 0.9, "tau": 0.8}, "mean"),
    },
    Random: {**EVERYWHERE, "seed": ({}, 1)},
    Uniform: EVERYWHERE,
    Pool: EVERYWHERE,
    Downscale: EVERYWHERE,
}
CASES = [(method, field) for method in methods() for field in CHANGES[method]]


def outcome(method, **settings):
    """What a prefill does under these settings: logits, tokens kept and rebuilt; or the refusal."""
    model, inputs = tiny_model("sdpa"), tiny.batch([["image", 9]]).inputs
    if method is PixelPrune:
        model, inputs = tiny_rotary.model("qwen2"), pages("qwen2", [[("image", 5, 6), 9]]).inputs
    try:
        run = sparsify(model, method(**settings))
    except SparsightError as error:
        return type(error).__name__
    with torch.no_grad(), run:
        logits = model(**inputs).logits[0, -1].tolist()
    steps = run.trace.samples[0]
    return logits, [(step.site, step.keep.tolist(), step.centres.tolist()) for step in steps]


@pytest.mark.parametrize("method", methods(), ids=cli_name)
def test_every_setting_is_looked_at(method):
    assert set(CHANGES[method]) == {field.name for field in fields(method)}


@pytest.mark.parametrize(
    ("method", "field"), CASES, ids=[f"{cli_name(method)}-{field}" for method, field in CASES]
)
def test_every_setting_acts(method, field):
    beside, value = CHANGES[method][field]
    before = {"retain": 0.4, **beside}
    assert outcome(method, **before) == outcome(method, **before)
    assert outcome(method, **before) != outcome(method, **{**before, field: value})
