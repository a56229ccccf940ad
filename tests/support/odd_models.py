"""Every tiny model for odd combinations: how it is made, and what its prompts are made of."""

import functools

import torch
from hypothesis import strategies as st

from tests.support import tiny, tiny_families, tiny_kinds, tiny_rotary
from tests.support.contract import decoder_of

LLAVA = {  # pixels a side, and changes of the text model
    "llava": (24, {}),
    "llava-shallow": (16, {"num_hidden_layers": 2, "num_key_value_heads": 4}),
    "llava-point": (4, {"num_hidden_layers": 3, "num_key_value_heads": 1}),
}
KINDS = (*LLAVA, *tiny_kinds.KINDS, *tiny_rotary.KINDS)
SDPA = [("sdpa", torch.float64), ("sdpa", torch.float32)]
EAGER = [
    ("eager", torch.float32)
]  # in float64 padded rows are NaN, pruned or not: see tests/support/cases.py
KEEPS_ONLY = {*tiny_rotary.KINDS}  # M-RoPE, windows, or blocks that see each other both ways
MROPE = {*tiny_rotary.QWEN}
SCALED = {
    *LLAVA,
    "llava-mistral",
    "llava-qwen2",
    *tiny_rotary.LLAVA,
}  # their images may be scaled down
GRIDS = {*SCALED, *MROPE, *tiny_rotary.MODELS, "vipllava", "video-llava", "janus", "deepseek-vl"}
INDEPENDENT = {
    *LLAVA,
    "llava-mistral",
    "llava-qwen2",
}  # of the pattern that tests/support/dense.py knows


def variants(kind):
    return EAGER if kind == "paligemma2" else [*SDPA, *EAGER]


@functools.cache
def model(kind, kernel, dtype):
    """Return a tiny model, made once and run once, as transformers hooks some parts in a run."""
    if kind in LLAVA:
        side, changes = LLAVA[kind]
        made = tiny.tiny_llava(attention=kernel, dtype=dtype, side=side, **changes)
    elif kind in tiny_kinds.KINDS:
        made = tiny_families.tiny_family(kind, kernel, dtype)
    else:
        made = tiny_rotary.model(kind, kernel, dtype)
    made.generate(**batch(kind, made, [[image(kind), 3]], 0).inputs, max_new_tokens=2)
    return made


class Counted:
    """Counts the passes that reach a model's first decoder layer."""

    def __init__(self, made):
        self.made, self.passes = made, 0

    def __enter__(self):
        self.handle = decoder_of(self.made).layers[0].register_forward_pre_hook(self._count)
        return self

    def _count(self, *_):
        self.passes += 1

    def __exit__(self, *_):
        self.handle.remove()


def image(kind):
    return tiny_rotary.image(kind, 2, 3) if kind in tiny_rotary.KINDS else "image"


def batch(kind, made, rows, seed):
    if kind in LLAVA:
        return tiny.batch(rows, seed, made.dtype, side=LLAVA[kind][0])
    if kind in tiny_kinds.KINDS:
        return tiny_families.family_batch(made, kind, rows, seed)
    return tiny_rotary.batch(kind, rows, made.dtype, seed)


@st.composite
def prompts(draw, kind):
    """Draw one to three samples: images and videos among text, or text alone."""
    videos = kind in tiny_rotary.QWEN or (
        kind in tiny_kinds.KINDS and tiny_kinds.KINDS[kind].video is not None
    )
    kinds = ["image", "video"] if videos else ["image"]
    if kind == "glm4v":  # its frames stand on image placeholders: a batch brings one or the other
        kinds = [draw(st.sampled_from(kinds))]
    return draw(st.lists(samples(kind, kinds), min_size=1, max_size=3))


@st.composite
def samples(draw, kind, kinds):
    words = st.integers(1, 6)
    if draw(st.integers(0, 5)) == 0:
        return [draw(st.integers(1, 12))]
    row = []
    for _ in range(
        draw(st.sampled_from([1, 1, 1, 2, 2, 3]) if kind in LLAVA else st.sampled_from([1, 1, 2]))
    ):
        row += draw(st.lists(words, max_size=1))
        row.append(draw(part(kind, draw(st.sampled_from(kinds)))))
    last = draw(st.integers(0, 30))
    return row if last == 30 else [*row, 1 + last // 4]


def part(kind, name):
    if kind not in tiny_rotary.QWEN:
        return st.just((name,) if kind in tiny_rotary.KINDS else name)
    side = st.integers(1, 4)
    # behind a long video, Qwen2.5-VL itself decodes at other positions than it gives the same words
    # in a prompt
    frames = st.integers(1, 1 if kind == "qwen25" else 3)
    return (
        st.tuples(st.just(name), side, side)
        if name == "image"
        else st.tuples(st.just(name), frames, side, side)
    )
