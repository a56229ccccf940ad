"""Every family of one-dimensional positions: the contract, pruned equals masked, and generate()."""

import pytest
import torch
from transformers import DynamicCache

from sparsight import SparseVLM, SparseVLMPlus, sparsify
from sparsight.errors import AttachError, UnsupportedError
from sparsight.methods import Pool, Random, Uniform
from tests.support import contract, hidden, tiny
from tests.support.caches import cached
from tests.support.cases import DTYPES, KERNELS, Identity, same
from tests.support.tiny_families import family_batch, tiny_family
from tests.support.tiny_kinds import FIRST, KINDS

RAGGED = [["image", 5], [2, "image", 2, "image", 6]]
LAYOUTS = {
    "one": [[3, "image", 5]],
    "ragged": RAGGED,
    "video": [["video", 5], ["image", 3, "video", 4]],
}
METHODS = {
    "sparsevlm": SparseVLM(retain=0.5),
    "plus": SparseVLMPlus(retain=0.5),
    "random": Random(retain=0.5),
}
NOWHERE = {
    "aria": "learned queries",
    "idefics2": "learned queries",
    "video-llama3": "are not known",
}
VIDEOS = [(name, "video") for name, kind in KINDS.items() if kind.video]
CASES = [
    *((name, "ragged", method) for name in KINDS for method in METHODS),
    *((name, "one", "sparsevlm") for name in KINDS),
    *((*video, method) for video in VIDEOS for method in ("sparsevlm", "random")),
]


def make(name, kernel, layout):
    model = tiny_family(name, kernel, DTYPES[kernel])
    return model, family_batch(model, name, LAYOUTS[layout])


@pytest.mark.parametrize(("name", "layout", "method"), CASES)
@pytest.mark.mode("left padding, ragged rows")
def test_families_keep_the_contract(name, layout, method):
    model, batch = make(name, "sdpa", layout)
    contract.check(model, METHODS[method], batch)


@pytest.mark.parametrize("name", KINDS)
def test_families_keep_the_contract_with_eager_attention(name):
    model, batch = make(name, "eager", "ragged")
    contract.check(model, METHODS["sparsevlm"], batch)


@pytest.mark.parametrize("name", KINDS)
def test_methods_that_need_grids_work_or_are_refused(name):
    model, batch = make(name, "sdpa", "ragged")
    if name in NOWHERE:
        refused = pytest.raises(UnsupportedError, match=NOWHERE[name])
        with refused, sparsify(model, Pool(retain=0.5)):
            model(**batch.inputs)
        return
    for method in (Pool(retain=0.5), Uniform(retain=0.3)):
        contract.check(model, method, batch, "counts", "alone")


@pytest.mark.parametrize(
    ("kernel", "positions"), [("sdpa", "keep"), ("sdpa", "renumber"), ("eager", "renumber")]
)
@pytest.mark.parametrize(("name", "layout"), [*((name, "ragged") for name in KINDS), *VIDEOS])
def test_pruned_equals_masked(name, layout, kernel, positions):
    model, batch = make(name, kernel, layout)
    said = torch.randint(FIRST, 80, (2, 3), generator=torch.Generator().manual_seed(5))
    mask, cache = batch.inputs["attention_mask"], DynamicCache(config=model.config)
    with sparsify(model, SparseVLM(retain=0.5, positions=positions)) as run, torch.no_grad():
        ids = contract.positions(mask)
        parts = [model(**batch.inputs, position_ids=ids, **cached(cache)).logits]
        for step in range(said.shape[1]):
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            given = {"attention_mask": mask, "position_ids": contract.positions(mask)[:, -1:]}
            parts.append(model(input_ids=said[:, step : step + 1], **given, **cached(cache)).logits)
    dense, alone = (
        tiny_family(name, "eager"),
        family_batch(tiny_family(name, "eager"), name, LAYOUTS[layout]).alone,
    )
    for b, own in enumerate(alone):
        ids = torch.cat([own["input_ids"], said[b : b + 1]], dim=1)
        inputs = {**own, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        raters = run.trace.raters[b] - (
            mask.shape[1] - ids.shape[1]
        )  # a trace counts the batch's padding
        want, scores = hidden.run(
            dense, inputs, run.trace.samples[b], raters, renumber=positions == "renumber"
        )
        for step, score in zip(run.trace.samples[b], scores, strict=True):
            torch.testing.assert_close(step.score.double(), score, rtol=1e-3, atol=1e-6)
        got = torch.cat(
            [parts[0][b, -run.stats.tokens_per_layer[b][-1] :], *(part[b] for part in parts[1:])]
        )
        contract.close(got, want.to(got.dtype), f"sample {b}")
        with torch.no_grad():
            plain = dense(**inputs).logits[0, -1]
        assert float((plain - want[-1]).abs().max() / plain.abs().max()) > 1e-3, (
            "pruning changes nothing here"
        )


def answer(model, inputs):
    return model.generate(
        **inputs, max_new_tokens=3, output_logits=True, return_dict_in_generate=True
    )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.mode("`sdpa`, `eager`")
def test_keeping_everything_is_bit_identical(name, kernel):
    model, batch = make(name, kernel, "ragged")
    if tiny.OLD:
        batch.inputs = batch.alone[1]  # images of several samples are mixed up, pruned or not
    plain = answer(model, batch.inputs)
    for method in (
        SparseVLM(retain=1.0),
        Identity(positions="keep"),
        Identity(positions="renumber"),
    ):
        with sparsify(model, method) as run:
            assert same(answer(model, batch.inputs), plain)
        assert run.stats.visual_tokens


@pytest.mark.parametrize(("name", "layout"), [*((name, "ragged") for name in KINDS), *VIDEOS])
@pytest.mark.mode("greedy")
def test_generate_says_the_same_alone_and_in_a_batch(name, layout):
    model, batch = make(name, "sdpa", layout)
    with sparsify(model, METHODS["sparsevlm"]):
        together = answer(model, batch.inputs)
        for row, own in enumerate(batch.alone):
            alone = answer(model, own)
            assert together.sequences[row, -3:].tolist() == alone.sequences[0, -3:].tolist()
            for step, other in zip(together.logits, alone.logits, strict=True):
                contract.close(step[row], other[0], f"sample {row}")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.mode("text-only rows and prompts")
def test_text_only_prompt_is_untouched(name):
    model = tiny_family(name)
    inputs = family_batch(model, name, [[9], [17]]).inputs
    plain = answer(model, inputs)
    with sparsify(model, METHODS["sparsevlm"]) as run:
        assert same(answer(model, inputs), plain)
        with pytest.raises(AttachError, match="no prompt with an image"):
            _ = run.stats
