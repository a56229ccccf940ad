"""Prompts and methods that the contract is checked on."""

import functools
import itertools
from dataclasses import dataclass

import torch

from sparsight.methods import (
    DART,
    EADP,
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
    VisionZip,
    VisPruner,
    VScan,
)
from sparsight.methods.view import Selection
from tests.support import tiny, tiny_clip
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

# those that choose by signals of the image encoder, of the decoder or of the text: judged by
# recordings and by masking
PUBLISHED = {
    "fastv": FastV(retain=0.5),
    "pyramiddrop": PyramidDrop(retain=0.4),
    "pyramiddrop renumbered": PyramidDrop(ratio=0.5, positions="renumber"),
    "vscan": VScan(retain=0.4),
    "vscan renumbered": VScan(retain=0.5, window=3, positions="renumber"),
    "tops": TOPS(retain=0.4),
    "tops renumbered": TOPS(retain=0.3, scale="min-max", positions="renumber"),
    "dart": DART(retain=0.55),
    "dart renumbered": DART(retain=20, text_pivots=2, positions="renumber"),
    "autoprune": AutoPrune(retain=0.4),
    "autoprune renumbered": AutoPrune(
        retain=0.5, sites=(1, 2, 6), kept=(30, 12, 5), positions="renumber"
    ),
    "sieve": SIEVE(retain=0.5),
    "hiprune": HiPrune(retain=0.4),
    "fastervlm": FasterVLM(retain=0.4),
    "vispruner": VisPruner(retain=0.5, positions="renumber"),
    "visionzip": VisionZip(retain=0.6),
    "visionzip renumbered": VisionZip(retain=0.5, contextual=0.4, positions="renumber"),
    "prumerge": PruMerge(retain=0.4),
    "prumerge renumbered": PruMerge(retain=9, neighbours=3, positions="renumber"),
    "prumerge outliers": PruMerge(retain=None, level="outliers"),
    "prumerge-plus": PruMergePlus(retain=0.5),
    "prumerge-plus outliers": PruMergePlus(retain=0.6, level="outliers", positions="renumber"),
    "holov": HoloV(retain=0.4, positions="renumber"),
    "prunesid": PruneSID(retain=0.5),
    "divprune": DivPrune(retain=0.3),
    "cen-prune": DivPrune(retain=0.4, centred=True, space="features", positions="renumber"),
    "scope": SCOPE(retain=0.5),
    "centred scope": SCOPE(retain=0.4, space="tokens", centred=True),
    "cdpruner": CDPruner(retain=0.4),
    "cdpruner by clip": CDPruner(
        0.3, relevance="clip", tower=tiny_clip.tower(), positions="renumber"
    ),
    "cdpruner in halves": CDPruner(retain=0.5, halves=True, centred=True, space="features"),
    "determinantal": CDPruner(retain=0.4, relevance="none", centred=True),
    "sparsight": Sparsight(retain=0.4),
    "sparsight at the input": Sparsight(retain=0.3, where="input", positions="renumber"),
    "sparsight, adaptive": Sparsight(retain=0.3, level="adaptive"),
    "sparsight by features": Sparsight(retain=0.6, space="features"),
    "mmtok": MMTok(retain=0.4, skip=tuple(range(4, 30))),
    "centred mmtok": MMTok(retain=0.3, centred=True, positions="renumber"),
    "eadp": EADP(retain=0.4, beta=2.0),
    "eadp by clip": EADP(retain=0.3, relevance="clip", tower=tiny_clip.tower(), centred=True),
    "restore": Restore(retain=0.4),
    "restore alone": Restore(retain=0.5, gamma=1.0, c=1.5, base=Random(seed=3)),
    "restore inside": Restore(retain=0.5, base=SparseVLM(recycle=False), anchors="paper"),
    "restore fastv": Restore(retain=0.6, base=FastV(), gamma=0.3, positions="renumber"),
    "merging alone": Restore(retain=0.5, base=HiPrune(), gamma=0.0, calibrate=False),
    "tome": ToMe(retain=0.6),
    "tome renumbered": ToMe(retain=0.5, positions="renumber"),
}

METHODS = {
    "sparsevlm": SparseVLM(retain=0.5, positions="renumber"),
    "keep positions": SparseVLM(retain=0.4),
    "sum": SparseVLM(retain=0.5, aggregate="sum", tau=0.6, theta=0.3, positions="renumber"),
    "calibrated": SparseVLM(retain=0.4, theta=0.05, calibrate=True),
    "no recycling": SparseVLM(retain=0.45, recycle=False, positions="renumber"),
    "rank": SparseVLM(level="rank", retain=None),
    "rank of videos": SparseVLM.paper_video(),
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
