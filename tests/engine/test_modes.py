"""Generation modes, for every family: a pruned model says what its pruned prefill says."""

import functools

import pytest
import torch
from transformers import DynamicCache, LlamaForCausalLM

from sparsight import SparseVLM, sparsify
from sparsight.engine.compat import output_cache
from sparsight.errors import UnsupportedError
from tests.support import contract, tiny, tiny_rotary
from tests.support.caches import cached
from tests.support.tiny_families import family_batch, tiny_family
from tests.support.tiny_kinds import KINDS

METHODS = {"renumber": SparseVLM(retain=0.5, positions="renumber"), "keep": SparseVLM(retain=0.5)}
FULL = SparseVLM(retain=1.0, positions="keep")
RAGGED = [["image", 5], [2, "image", 2, "image", 6]]
SEVERAL = {
    "sampling": {"do_sample": True, "top_k": 0, "num_return_sequences": 2},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.0},
}
QWEN = [kind for kind in tiny_rotary.QWEN if kind != "qwen2_sliding"]
SLIDING = ["qwen2_sliding", "gemma3", "mistral", "qwen2_window"]


@functools.cache
def assistant():
    torch.manual_seed(1)
    return LlamaForCausalLM(tiny.text_config()).eval()


DRAFTS = {"assistant_model": assistant, "prompt_lookup_num_tokens": lambda: 3}


@torch.no_grad()
def forced(model, own, said):
    """Log-probabilities of what was said after one prompt, each token in a pass of its own."""
    ids = contract.positions(own["attention_mask"])
    cache, mask = DynamicCache(config=model.config), own["attention_mask"]
    parts = [model(**own, position_ids=ids, **cached(cache)).logits[:, -1]]
    for token in said[:-1]:
        mask = torch.cat([mask, mask.new_ones(1, 1)], dim=1)
        step = {"attention_mask": mask, "position_ids": contract.positions(mask)[:, -1:]}
        parts.append(
            model(input_ids=torch.tensor([[token]]), **step, **cached(cache)).logits[:, -1]
        )
    return torch.cat(parts)


@pytest.mark.parametrize("way", SEVERAL)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.mode("sampling, several answers")
@pytest.mark.mode("beam search, several answers")
def test_several_answers_score_as_each_alone(name, way):
    """Sampling and beams of ragged rows, several answers each, score as each answer alone."""
    model = tiny_family(name)
    batch, settings = family_batch(model, name, RAGGED), {**SEVERAL[way], "max_new_tokens": 3}
    if tiny.OLD:
        pytest.skip("transformers before 5.18 mixes up the images of copied rows, pruned or not")
    start = batch.inputs["input_ids"].shape[1]
    torch.manual_seed(0)
    with sparsify(model, METHODS["renumber"]):
        done = model.generate(
            **batch.inputs,
            **settings,
            return_dict_in_generate=True,
            output_logits=True,
            output_scores=True,
        )
        for row, sequence in enumerate(done.sequences):
            said = sequence[start:].tolist()
            want = forced(model, batch.alone[row // 2], said)
            if way == "sampling":
                contract.close(
                    torch.stack([step[row] for step in done.logits]).to(want.dtype),
                    want,
                    f"row {row}",
                )
                continue
            score = float(want.log_softmax(dim=-1).gather(1, torch.tensor(said)[:, None]).sum())
            assert abs(score - float(done.sequences_scores[row])) < 1e-3
    assert len(done.sequences) == 4


def echo(ids, count):
    """Have a prompt end in words that it said before, so that there is something to look up."""
    ids[0, -count:] = ids[0, -2 * count : -count]


def drafts_alike(model, inputs, option, methods):
    """Check that drafted answers and raters, dense and pruned, are those of greedy decoding."""
    words = {"max_new_tokens": 6}
    draft = {option: DRAFTS[option]()}
    dense = model.generate(**inputs, **words)
    with sparsify(model, FULL):
        assert torch.equal(model.generate(**inputs, **draft, **words), dense)
    for method in methods:
        with sparsify(model, method) as run:
            greedy, raters = model.generate(**inputs, **words), run.trace.raters
            kept = [step.keep.tolist() for step in run.trace.samples[0]]
            assert torch.equal(model.generate(**inputs, **draft, **words), greedy)
            assert run.trace.raters[0].tolist() == raters[0].tolist(), "candidates rate the image"
            assert [step.keep.tolist() for step in run.trace.samples[0]] == kept


@pytest.mark.parametrize("option", DRAFTS)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.mode("`assistant_model`")
@pytest.mark.mode("`prompt_lookup_num_tokens`")
def test_drafted_tokens_are_those_of_greedy_decoding(name, option):
    if tiny.OLD and option == "assistant_model":
        pytest.skip("transformers before 5.18 give the images to a drafting model that takes none")
    model = tiny_family(name)
    inputs = family_batch(model, name, [["image", 2, 8, "image", 9]]).inputs
    echo(inputs["input_ids"], 4)
    drafts_alike(model, inputs, option, [METHODS["renumber"]])


@pytest.mark.parametrize("kind", QWEN)
@pytest.mark.mode("`prompt_lookup_num_tokens` with M-RoPE")
def test_looked_up_tokens_with_m_rope_are_those_of_greedy_decoding(kind):
    model = tiny_rotary.model(kind)
    inputs = tiny_rotary.batch(kind, tiny_rotary.rows(kind), model.dtype).alone[0]
    echo(inputs["input_ids"], 2)
    drafts_alike(model, inputs, "prompt_lookup_num_tokens", [METHODS["keep"]])


@pytest.mark.parametrize("kind", [*SLIDING, "paligemma"])
@pytest.mark.mode("`assistant_model`, `prompt_lookup_num_tokens` with sliding windows; PaliGemma")
def test_drafts_that_cannot_be_taken_back_are_refused(kind):
    model = tiny_rotary.model(kind)
    inputs = tiny_rotary.batch(kind, tiny_rotary.rows(kind), model.dtype).alone[0]
    with sparsify(model, METHODS["keep"]):
        for option, make in DRAFTS.items():
            with pytest.raises(UnsupportedError, match=rf"{option}.*sliding window.*leave it out"):
                model.generate(**inputs, **{option: make()}, max_new_tokens=2)


@pytest.mark.mode("`GenerationMixin.generate(model, ...)`, past the model's own attribute")
def test_candidates_would_rate():
    """The check bites: candidates in the prompt change the raters and with them the answer."""
    model = tiny.tiny_llava()
    inputs = tiny.batch([["image", 6]]).inputs
    draft = {"assistant_model": tiny.tiny_llava(seed=3), "max_new_tokens": 4}
    with sparsify(model, METHODS["keep"]) as run:
        model.generate(**inputs, max_new_tokens=4)
        raters = run.trace.raters[0].tolist()
        type(model).generate(model, **inputs, **draft)  # nothing announces where the prompt ends
        assert run.trace.raters[0].tolist() != raters
        model.generate(**inputs, **draft)
        assert run.trace.raters[0].tolist() == raters


def test_a_model_may_draft_for_itself_and_for_another():
    """generate() within generate() forgets nothing of the outer one."""
    model, other = tiny.tiny_llava(), tiny.tiny_llava(seed=3)
    inputs = tiny.batch([["image", 6]]).inputs
    dense = other.generate(**inputs, max_new_tokens=8)
    with sparsify(model, METHODS["keep"]) as run:
        want, raters = model.generate(**inputs, max_new_tokens=8), run.trace.raters[0].tolist()
        assert torch.equal(model.generate(**inputs, max_new_tokens=8, assistant_model=model), want)
        assert run.trace.raters[0].tolist() == raters
        assert torch.equal(other.generate(**inputs, max_new_tokens=8, assistant_model=model), dense)


@pytest.mark.mode("`assistant_model`, `prompt_lookup_num_tokens` on a cache that holds tokens")
def test_drafts_in_a_later_turn_are_refused():
    """Where transformers' own answer differs from greedy decoding, pruned or not."""
    model, draft = tiny.tiny_llava(), {"assistant_model": assistant(), "max_new_tokens": 6}
    first, second = (tiny.batch([["image", 6]], seed=seed).inputs for seed in (0, 1))
    with sparsify(model, METHODS["renumber"]):
        done = model.generate(**first, max_new_tokens=3, return_dict_in_generate=True)
        more = {"input_ids": torch.cat([done.sequences, torch.tensor([[9, 8, 7]])], dim=1)}
        for given in (more, second):
            with pytest.raises(
                UnsupportedError, match=r"assistant_model.*later turn.*leave it out"
            ):
                model.generate(**given, **cached(output_cache(done)), **draft)
