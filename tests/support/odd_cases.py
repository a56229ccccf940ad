"""Odd combinations: what a case is and how it is drawn; most are served, some refused."""

from dataclasses import dataclass, field

from hypothesis import strategies as st

from sparsight.methods import Downscale, Pool, Random, SparseVLM, SparseVLMPlus, Uniform
from tests.support import odd_models, tiny_rotary

MODES = ("forward", "no cache", "loop", "generate", "turn", "generate without cache")


@dataclass(frozen=True)
class Budget:
    """How much is kept.

    Args:
        share: of what lies between the least that a sample can keep and all of it; of all if `raw`.
        whole: whether it is given as a count, one that every sample can meet if there is any.
    """

    share: float | None
    whole: bool = False
    raw: bool = False

    def of(self, counts, least):
        """Return `retain` for samples of so many visual tokens and least layer means."""
        if not counts:  # words alone
            return self.share or 1.0
        floor = (
            0.0 if self.raw else max(low / count for low, count in zip(least, counts, strict=True))
        )
        if not self.whole:
            return min(1.0, floor + self.share * (1 - floor)) if floor < 1 else 1.0
        low, high = (1, max(counts)) if self.raw else (-int(-max(least) // 1), min(counts))
        return max(1, round(low + self.share * (high - low)))


@dataclass(frozen=True)
class Case:
    """One odd combination."""

    kind: str
    kernel: str
    dtype: object
    rows: list
    seed: int
    left: bool
    extra: int  # columns of padding in every row
    bare: bool  # no attention mask, where nothing is padding
    numbered: bool  # position ids as generate() makes them
    mode: str
    said: tuple  # tokens of each later pass
    method: type
    budget: Budget
    settings: dict = field(default_factory=dict)


@st.composite
def cases(draw, kind, layers):
    """Draw a case of one kind of model with so many decoder layers."""
    kernel, dtype = draw(st.sampled_from(odd_models.variants(kind)))
    rows = draw(odd_models.prompts(kind))
    mode = draw(st.sampled_from([*MODES[:5] * 5, MODES[5]]))
    plain = kind not in tiny_rotary.KINDS  # right padding in the middle of a chat is not theirs
    right = mode in ("forward", "no cache") or (mode == "loop" and plain)
    method = draw(st.sampled_from(methods(kind)))
    return Case(
        kind=kind,
        kernel=kernel,
        dtype=dtype,
        rows=rows if mode != "turn" or plain else rows[:1],
        seed=draw(st.integers(0, 9)),
        left=not right or draw(st.booleans()),
        extra=draw(st.sampled_from([0, 0, 0, 1, 5])),
        bare=draw(st.booleans()),
        numbered=draw(st.booleans()),
        mode=mode,
        said=tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))),
        method=method,
        budget=draw(budgets()),
        settings=draw(settings_of(method, kind, layers)),
    )


def methods(kind):
    """Those that do not suit a kind come less often."""
    found = [SparseVLM] * 8 + [Random] * 2 + [Uniform, Pool]
    found += [SparseVLMPlus] * (1 if kind in odd_models.MROPE else 4)
    if kind in odd_models.GRIDS:
        found += [Uniform] * 2 + [Pool] * 2
    return found + [Downscale] * (3 if kind in odd_models.SCALED else 0)


@st.composite
def budgets(draw):
    share = st.sampled_from([1.0, 0.99, 0.9, 0.5, 1 / 3, 0.1, 0.0, 1e-6]) | st.floats(0.0, 0.99)
    return Budget(draw(share), whole=draw(st.booleans()), raw=draw(st.integers(0, 9)) == 0)


@st.composite
def settings_of(draw, method, kind, layers):
    """The settings of a method apart from its budget; a few are out of place."""
    found, first = {}, 0 if issubclass(method, (Random, Uniform)) else 1
    if method not in (Pool, Downscale) and draw(st.booleans()):
        least = first if draw(st.integers(0, 19)) else 0
        most = layers - 1 if draw(st.integers(0, 39)) else layers
        sites = st.sets(st.integers(least, max(most, least)), min_size=1, max_size=4)
        found["sites"] = draw(
            st.sampled_from([(first,), (layers - 1,)]) | sites.map(sorted).map(tuple)
        )
    unsuited = kind in odd_models.KEEPS_ONLY and draw(st.integers(0, 19))
    found["positions"] = "keep" if unsuited else draw(st.sampled_from(["keep", "renumber"]))
    if method is SparseVLM:
        found |= draw(sparsevlm_settings(found.get("sites")))
    elif method is SparseVLMPlus:
        found["heads"] = draw(st.integers(1, 6) | st.floats(0.01, 1.0))
        found["prior_floor"] = draw(st.sampled_from([0.1, 1e-3, 1.0]))
        found["accounting"] = draw(st.sampled_from(["entering", "authors"]))
    elif method is Random:
        found["seed"] = draw(st.integers(0, 10**6))
    return found


@st.composite
def sparsevlm_settings(draw, sites):
    share = st.sampled_from([1.0, 0.3, 0.05]) | st.floats(0.01, 1.0)
    found = {
        "recycle": draw(st.booleans()),
        "aggregate": draw(st.sampled_from(["mean", "sum"])),
        "accounting": draw(st.sampled_from(["entering", "authors"])),
        "tau": draw(share),
        "theta": draw(share),
    }
    if draw(st.integers(0, 2)) == 0:
        tolerance = draw(st.sampled_from([None, 0.0, 1e-3, 0.5]))
        found |= {"level": "rank", "prune_scale": draw(share), "rank_tolerance": tolerance}
        found |= draw(st.sampled_from([{}, {"retain": None}]))
    if sites and draw(st.integers(0, 3)) == 0:
        kept = st.lists(st.integers(1, 30), min_size=len(sites), max_size=len(sites))
        found |= {
            "kept": tuple(sorted(draw(kept), reverse=True)),
            **draw(st.sampled_from([{}, {"retain": 1.0}])),
        }
    return found
