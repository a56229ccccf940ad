"""A text model whose caller inserts and marks the visual tokens prunes as inside a VLM."""

from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaForCausalLM, MistralForCausalLM

from sparsight import SparseVLM, Sparsight, sparsify
from sparsight.engine.compat import output_cache
from sparsight.errors import AttachError, BudgetError, PromptError, UnsupportedError
from sparsight.methods import Uniform
from tests.support import tiny
from tests.support.caches import cached

METHOD = SparseVLM(retain=12)


@pytest.fixture(scope="module")
def pair():
    """A VLM and its own text model with the head, sharing nothing."""
    whole = tiny.tiny_llava()
    text = LlamaForCausalLM(whole.config.text_config).double().eval()
    text.model.load_state_dict(whole.model.language_model.state_dict())
    text.lm_head.load_state_dict(whole.lm_head.state_dict())
    text.generation_config.pad_token_id = tiny.PAD
    return whole, text


def merged(whole, rows):
    """A batch, and what the text model of a VLM gets for it."""
    batch, seen = tiny.batch(rows), {}
    handle = whole.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        whole(**batch.inputs)
    handle.remove()
    marks = batch.inputs["input_ids"] == tiny.IMAGE
    given = {
        "inputs_embeds": seen["inputs_embeds"],
        "attention_mask": batch.inputs["attention_mask"],
    }
    return SimpleNamespace(inputs=batch.inputs, given=given, marks=marks)


ROWS = {
    "one": [["image", 6]],
    "padded": [[3, "image", 6], ["image", 9]],
    "text-only row": [["image", 6], [8]],
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_same_logits_and_choice_as_inside_the_vlm(pair, rows):
    whole, text = pair
    batch = merged(whole, rows)
    with sparsify(whole, METHOD) as inside, torch.no_grad():
        wanted = whole(**batch.inputs).logits
    with sparsify(text, METHOD, visual_mask=batch.marks) as run, torch.no_grad():
        found = text(**batch.given).logits
    assert torch.equal(found, wanted)
    assert run.stats.visual_tokens == inside.stats.visual_tokens
    for alone, own in zip(run.trace.samples, inside.trace.samples, strict=True):
        assert all(torch.equal(a.keep, b.keep) for a, b in zip(alone, own, strict=True))


@pytest.mark.parametrize(
    "beams", [1, 2]
)  # an even number, or the first copy of each row would have its marks anyway
def test_generates_as_inside_the_vlm(pair, beams):
    whole, text = pair
    batch = merged(whole, ROWS["padded"])
    options = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams}
    with sparsify(whole, METHOD):
        wanted = whole.generate(**batch.inputs, **options)[:, batch.inputs["input_ids"].shape[1] :]
    with sparsify(text, METHOD, visual_mask=batch.marks):
        found = text.generate(**batch.given, **options)
    if beams == 1 or not tiny.OLD:  # before 5.18 a VLM mixes up the images of copied rows
        assert torch.equal(found, wanted)


def test_the_inner_model_takes_a_new_mask(pair):
    whole, text = pair
    first, second = merged(whole, ROWS["one"]), merged(whole, [[4, "image", 5]])
    with sparsify(text.model, METHOD, visual_mask=first.marks) as run, torch.no_grad():
        text.model(**first.given)
        with pytest.raises(
            PromptError, match=r"\(1, 43\) does not fit inputs_embeds of 1 rows of 46 tokens"
        ):
            text.model(**second.given)
        run.visual_mask = first.marks.expand(2, -1)
        with pytest.raises(PromptError, match=r"\(2, 43\) does not fit inputs_embeds of 1 rows"):
            text.model(**first.given)
        run.visual_mask = second.marks
        text.model(**second.given)
        assert run.stats.visual_tokens == (tiny.VISUAL,)
        with pytest.raises(AttachError):
            sparsify(text.model, METHOD, visual_mask=first.marks)


def test_text_prompts_and_later_turns_pass_untouched(pair):
    whole, text = pair
    batch, words = merged(whole, ROWS["one"]), torch.arange(10, 53)[None]
    with torch.no_grad():
        wanted = text(input_ids=words).logits
    with sparsify(text, METHOD, visual_mask=batch.marks), torch.no_grad():
        assert torch.equal(text(input_ids=words).logits, wanted), (
            "as long as the marks, but of words"
        )
        cache = output_cache(text(**batch.given))
        turn = words[:, :3]
        assert text(input_ids=turn, **cached(cache)).logits.isfinite().all()
        with pytest.raises(PromptError, match="input_ids"):
            text(inputs_embeds=text.get_input_embeddings()(turn), **cached(cache))


def test_wrong_masks_are_refused(pair):
    whole, text = pair
    batch = merged(whole, ROWS["one"])
    for marks, said in (
        (batch.marks.long(), "int64"),
        (batch.marks[0], r"shape \(43,\)"),
        ([True], "list"),
    ):
        with pytest.raises(PromptError, match=said):
            sparsify(text, METHOD, visual_mask=marks)
    with pytest.raises(UnsupportedError, match="leave visual_mask out"):
        sparsify(whole, METHOD, visual_mask=batch.marks)
    with (
        sparsify(whole, METHOD) as run,
        pytest.raises(UnsupportedError, match="takes no visual_mask"),
    ):
        run.visual_mask = batch.marks
    windows = MistralForCausalLM(tiny.text_config("mistral", sliding_window=8)).eval()
    with pytest.raises(UnsupportedError, match="sliding windows"):
        sparsify(windows, METHOD, visual_mask=batch.marks)
    with sparsify(text, SparseVLM(retain=1), visual_mask=batch.marks), pytest.raises(BudgetError):
        text(**batch.given)
    with (
        sparsify(text, Uniform(retain=9), visual_mask=batch.marks),
        pytest.raises(UnsupportedError, match="rows and columns"),
    ):
        text(**batch.given)
    with (
        sparsify(text, METHOD, visual_mask=batch.marks),
        pytest.raises(UnsupportedError, match="labels"),
    ):
        text(**batch.given, labels=torch.zeros(1, 43, dtype=torch.int64))
    assert not any(module._forward_pre_hooks for module in text.modules())


def test_a_budget_alone_is_enough(pair):
    """The recommended method needs neither an image encoder nor to know where tokens lie."""
    whole, text = pair
    batch = merged(whole, [["image", 5], ["image", 2, "image", 6]])
    with sparsify(text, 0.5, visual_mask=batch.marks) as run, torch.no_grad():
        text(**batch.given)
    assert run.method == Sparsight(0.5, space="tokens")
    for sample, visual in zip(run.trace.samples, batch.marks.sum(dim=1).tolist(), strict=True):
        plan = Sparsight(0.5).plan(visual, 8)
        assert [len(site.keep) for site in sample] == list(plan.counts)
