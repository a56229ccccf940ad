"""Prompts and methods that the contract is checked on."""

import functools
import itertools
from dataclasses import dataclass

import torch

from sparsight.methods import (
    SCOPE,
    DivPrune,
    Downscale,
    FastV,
    HiPrune,
    Pool,
    Random,
    SparseVLM,
    SparseVLMPlus,
    ToMe,
    Uniform,
    VisionZip,
    VisPruner,
)
from sparsight.methods.view import Selection
from tests.support import tiny
from tests.support.footprint import share

LAYOUTS = {
    "one": [["image", 5]],
    "two": [["image", 5], ["image", 5]],
    "left padded": [["image", 5], ["image", 9]],
    "unequal images": [["image", 5], ["image", 2, "image", 6]],
    "several images": [[3, "image", 2, "image", 1, "image", 4]],
    "adjacent images": [["image", "image", 4]],
    "one word": [["image", 1], [4, "image", 1]],
    "text among them": [["image", 7], [20], [2, "image", 3]],
    "long text among them": [["image", 7], [60]],
}

# those that choose by signals of the image encoder, and FastV: judged by recordings and by masking
PUBLISHED = {
    "fastv": FastV(retain=0.5),
    "hiprune": HiPrune(retain=0.4),
    "vispruner": VisPruner(retain=0.5, positions="renumber"),
    "visionzip": VisionZip(retain=0.6),
    "visionzip renumbered": VisionZip(retain=0.5, contextual=0.4, positions="renumber"),
    "divprune": DivPrune(retain=0.3),
    "cen-prune": DivPrune(retain=0.4, centred=True, space="features", positions="renumber"),
    "scope": SCOPE(retain=0.5),
    "tome": ToMe(retain=0.6),
    "tome renumbered": ToMe(retain=0.5, positions="renumber"),
}

METHODS = {
    "sparsevlm": SparseVLM(retain=0.5, positions="renumber"),
    "keep positions": SparseVLM(retain=0.4),
    "sum": SparseVLM(retain=0.5, aggregate="sum", tau=0.6, theta=0.3, positions="renumber"),
    "no recycling": SparseVLM(retain=0.45, recycle=False, positions="renumber"),
    "rank": SparseVLM(level="rank", retain=None),
    "bounded rank": SparseVLM(level="rank", retain=0.4, prune_scale=0.8, positions="renumber"),
    "plus": SparseVLMPlus(retain=0.5),
    "plus renumbered": SparseVLMPlus(retain=20, positions="renumber", heads=1),
    "few sites": SparseVLM(retain=0.6, sites=(2, 7)),
    "given counts": SparseVLM(sites=(1, 3, 5), kept=(20, 9, 4), retain=1.0, positions="renumber"),
    "random": Random(retain=0.5),
    "uniform": Uniform(retain=0.3),
    "uniform inside": Uniform(retain=0.5, sites=(0, 3, 5), positions="renumber"),
    "pool": Pool(retain=0.4),
    "pool renumbered": Pool(retain=7, positions="renumber"),
    "downscale": Downscale(retain=0.6),
}

KERNELS = ("sdpa", "eager")

# what the engine owes every prompt is crossed with one method that reads attention, one at the
# input and one that merges; every other method meets two ragged batches, one with each kernel
REPRESENTATIVES = ("plus", "uniform", "sparsevlm")
RAGGED = (("sdpa", "unequal images"), ("eager", "left padded"))


def crossed(every, representatives=REPRESENTATIVES):
    """Return (method, kernel, layout): all of the representatives, two of every other method."""
    cases = itertools.product(representatives, KERNELS, LAYOUTS)
    others = [method for method in every if method not in representatives]
    return [*cases, *((method, *case) for method in others for case in RAGGED)]


# in float64 transformers' own eager mask makes padded rows NaN: its smallest float64 is -inf in a
# float32 softmax
DTYPES = {"sdpa": torch.float64, "eager": torch.float32}


@functools.cache
def tiny_model(kernel, **changes):
    """A tiny model, made once for all tests."""
    made = tiny.tiny_llava(attention=kernel, **{"dtype": DTYPES[kernel], **changes})
    return share(made, f"tiny_model({kernel!r}, {changes})")


@dataclass(frozen=True)
class Identity(SparseVLM):
    """Goes through every site, and keeps everything there."""

    retain: float | None = None
    level: str = "rank"

    def select(self, view):
        return Selection(torch.arange(view.hidden.shape[1])[None], score=view.attention.mean())


def same(own, other):
    """Whether two answers of generate() are bit-identical."""
    return torch.equal(own.sequences, other.sequences) and all(
        torch.equal(a, b) for a, b in zip(own.logits, other.logits, strict=True)
    )
