"""A field exists only where it acts: another value of it changes what happens, or is refused."""

from dataclasses import fields

import pytest
import torch

from sparsight import sparsify
from sparsight.cli.method import cli_name
from sparsight.errors import SparsightError
from sparsight.methods import (
    DART,
    EADP,
    EVS,
    SCOPE,
    SIEVE,
    TOPS,
    AutoPrune,
    CDPruner,
    DivPrune,
    Downscale,
    FasterVLM,
    FastV,
    HiPrune,
    HoloV,
    MMTok,
    PixelPrune,
    Pool,
    PruMerge,
    PruMergePlus,
    PruneSID,
    PyramidDrop,
    Random,
    Restore,
    SparseVLM,
    SparseVLMPlus,
    Sparsight,
    ToMe,
    Uniform,
    VidCom2,
    VisionZip,
    VisPruner,
    VScan,
    methods,
)
from tests.support import tiny, tiny_clip, tiny_rotary
from tests.support.cases import tiny_model
from tests.support.pages import pages
from tests.support.tiny_families import family_batch, tiny_family

CLIP = {"relevance": "clip", "tower": tiny_clip.tower()}
KEPT = {"sites": (2, 5), "kept": (14, 9)}
EVERYWHERE = {
    "retain": ({}, 0.6),
    "sites": ({}, (2, 6)),
    "positions": ({"positions": "keep"}, "renumber"),
}
MERGED = {
    **EVERYWHERE,
    "level": ({}, "outliers"),
    "score": ({}, "received"),
    "merge": ({}, "tokens"),
    "block": ({}, 0),
    "neighbours": ({}, 3),
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
        "calibrate": ({"theta": 0.05}, True),
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
    DART: {
        **EVERYWHERE,
        "sites": ({}, (3,)),
        "kept": ({"kept": (14,)}, (13,)),
        "image_pivots": ({}, 1),
        "text_pivots": ({"retain": 0.7}, 1),
    },
    AutoPrune: {
        **EVERYWHERE,
        "slope": ({}, 0.0),
        "recycle": ({}, False),
        "kept": (KEPT, (14, 8)),
    },
    SIEVE: {**EVERYWHERE, "heads": ({}, 3), "eta": ({}, 0.1)},
    HiPrune: {**EVERYWHERE, "alpha": ({}, 1.0), "object_block": ({"alpha": 1.0}, 0)},
    FasterVLM: {**EVERYWHERE, "score": ({}, "received")},
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
    PruMerge: MERGED,
    PruMergePlus: {**MERGED, "important": ({}, 0.8)},
    HoloV: {**EVERYWHERE, "strips": ({}, 2), "score": ({}, "received")},
    PruneSID: {**EVERYWHERE, "score": ({}, "received")},
    DivPrune: {**EVERYWHERE, "centred": ({}, True), "space": ({}, "features")},
    EVS: EVERYWHERE,
    VidCom2: EVERYWHERE,
    SCOPE: {
        **EVERYWHERE,
        "alpha": ({}, 3.0),
        "score": ({}, "received"),
        "space": ({}, "tokens"),
        "centred": ({}, True),
    },
    Sparsight: {
        **EVERYWHERE,
        "sites": ({}, (0, 5)),
        "where": ({}, "input"),
        "level": ({"retain": 0.3}, "adaptive"),
        "space": ({}, "features"),
    },
    CDPruner: {
        **EVERYWHERE,
        "relevance": ({}, "none"),
        "tower": (CLIP, tiny_clip.tower(seed=2)),
        "blend": ({}, 1.0),
        "halves": ({}, True),
        "space": ({}, "features"),
        "centred": ({}, True),
    },
    MMTok: {
        **EVERYWHERE,
        "text_temperature": ({}, 0.5),
        "visual_temperature": ({}, 0.01),
        "alpha": ({}, 0.0),
        "skip": ({}, tuple(range(4, 60))),
        "space": ({}, "tokens"),
        "centred": ({}, True),
    },
    EADP: {
        **EVERYWHERE,
        "relevance": ({}, "clip"),
        "tower": (CLIP, tiny_clip.tower(seed=2)),
        "share": ({}, 1.0),
        "beta": ({}, 4.0),
        "space": ({}, "features"),
        "centred": ({}, True),
    },
    Restore: {
        **EVERYWHERE,
        "sites": ({"base": Random()}, (2, 6)),
        "base": ({}, Random()),
        "gamma": ({}, 0.3),
        "c": ({}, 1.5),
        "anchors": ({}, "paper"),
        "calibrate": ({}, False),
    },
    PyramidDrop: {**EVERYWHERE, "ratio": ({}, 0.3)},
    VScan: {
        **EVERYWHERE,
        "sites": ({}, (0, 6)),
        "score": ({"window": 4}, "received"),
        "local_block": ({}, 0.5),
        "window": ({"local_block": 0.5}, 2),
    },
    TOPS: {
        **EVERYWHERE,
        "sites": ({}, (0, 2, 6)),
        "kept": ({"sites": (0, 2, 5), "kept": (14, 9, 4)}, (14, 9, 3)),
        "alpha": ({}, 5.0),
        "coverage_weight": ({}, 5.0),
        "scale": ({}, "min-max"),
        "score": ({}, "received"),
    },
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
    if method.videos_only:
        model = tiny_family("llava-next-video")
        inputs = family_batch(model, "llava-next-video", [["video", 9]]).inputs
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
