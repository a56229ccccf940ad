"""Later turns and other ways to call models with other positions or masks."""

from contextlib import nullcontext

import pytest
import torch
from transformers import DynamicCache

from sparsight import sparsify
from sparsight.engine.compat import output_cache
from sparsight.methods import SparseVLM, Uniform
from tests.families.test_rotary import close, generate, want
from tests.families.test_rotary_edges import METHOD, SLIDING, one, word
from tests.support import contract, hidden, tiny, tiny_rotary
from tests.support.caches import cached
from tests.support.tiny_rotary import KINDS, LLAVA, QWEN


@pytest.mark.parametrize("kind", ["gemma3", *LLAVA])
@pytest.mark.mode("a second turn with an image")
def test_a_second_turn_with_a_new_image_equals_masked(kind):
    if tiny.OLD and kind == "gemma3":
        pytest.skip(
            "transformers before 5.18 lets the blocks of a later turn begin at the wrong token, "
            "pruned or not"
        )
    model, cache = tiny_rotary.model(kind), DynamicCache(config=tiny_rotary.model(kind).config)
    first, second = one(kind, model), one(kind, model, text=5, seed=1)
    length = first["input_ids"].shape[1]
    with sparsify(model, METHOD) as run, torch.no_grad():
        parts = [model(**first, **cached(cache)).logits]
        steps = run.trace.samples[0]
        mask = torch.cat([first["attention_mask"], second["attention_mask"]], dim=1)
        changes = {"attention_mask": mask}
        if (
            kind == "gemma3"
        ):  # transformers reads the blocks of all tokens, those in the cache included
            changes["token_type_ids"] = torch.cat(
                [first["token_type_ids"], second["token_type_ids"]], dim=1
            )
        parts.append(model(**{**second, **changes}, **cached(cache)).logits)
        later = run.trace.samples[0]
        parts += [model(**word(token), **cached(cache)).logits for token in (20, 21)]
    both = {
        name: torch.cat([part, second[name]], dim=int(name != "pixel_values"))
        for name, part in first.items()
    }
    wanted, _ = hidden.run(
        tiny_rotary.model(kind, "eager", torch.float64),
        tiny_rotary.longer(kind, both, [20, 21]),
        steps,
        then=[(length, later)],
    )
    close(torch.cat(parts, dim=1)[0], wanted, "two images, two turns")


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_turn_of_unequal_length_equals_masked(kind):
    """Padding of a later turn lies in the middle of the cache, and stays padding in later steps."""
    model = tiny_rotary.model(kind, "eager" if kind == "paligemma2" else "sdpa")
    batch = tiny_rotary.batch(kind, tiny_rotary.rows(kind), model.dtype)
    cache, first = DynamicCache(config=model.config), int(kind.startswith("paligemma"))
    turn = torch.randint(10, 90, (2, 6), generator=torch.Generator().manual_seed(2))
    mask = torch.cat(
        [batch.inputs["attention_mask"], torch.tensor([[1] * 5, [0, 0, 1, 1, 1]])], dim=1
    )
    given = (
        {}
        if kind in QWEN
        else {"position_ids": contract.positions(batch.inputs["attention_mask"]) + first}
    )
    with sparsify(model, METHOD) as run, torch.no_grad():
        model(**batch.inputs, **given, **cached(cache))
        parts, deltas = [], getattr(model.model, "rope_deltas", first)
        for new in (turn[:, :5], turn[:, 5:]):
            if parts:
                mask = torch.cat([mask, mask.new_ones(2, 1)], dim=1)
            places = contract.positions(mask)[:, -new.shape[1] :] + deltas
            out = model(input_ids=new, attention_mask=mask, position_ids=places, **cached(cache))
            parts.append(out.logits)
    logits, length = torch.cat(parts, dim=1), batch.inputs["input_ids"].shape[1]
    for b, skip in ((0, 0), (1, 2)):
        real = mask[b].clone()
        real[
            : length - batch.alone[b]["input_ids"].shape[1]
        ] = -1  # windows count padding that lies in the middle
        given = tiny_rotary.longer(kind, batch.alone[b], turn[b].tolist())
        given = {
            name: part.double() if part.is_floating_point() else part
            for name, part in given.items()
        }
        given["attention_mask"] = real[real >= 0][None]
        if kind not in QWEN:
            given["position_ids"] = contract.positions(given["attention_mask"]) + first
        reference = tiny_rotary.model(kind, "eager", torch.float64)
        wanted, _ = hidden.run(reference, given, run.trace.samples[b])
        close(logits[b, skip:], wanted[skip - 6 :], f"sample {b}")


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_paligemma_without_token_types_follows_its_kernel(kernel):
    """transformers is then bidirectional with sdpa, and causal with eager attention."""
    model = tiny_rotary.model("paligemma", kernel)
    inputs = one("paligemma", model)
    bare = {name: part for name, part in inputs.items() if name != "token_type_ids"}
    with torch.no_grad():
        plain = model(**bare).logits
        with sparsify(model, SparseVLM(retain=1.0, positions="keep")):
            assert torch.equal(model(**bare).logits, plain)
        with sparsify(model, METHOD) as run:
            got = model(**bare).logits[0]
    reference = tiny_rotary.model("paligemma", "eager", torch.float64)
    as_seen = inputs if kernel == "sdpa" else bare
    as_seen = {
        name: part.double() if part.is_floating_point() else part for name, part in as_seen.items()
    }
    steps = run.trace.samples[0]
    wanted, scores = hidden.run(reference, as_seen, steps, run.trace.raters[0])
    close(got, wanted, kernel)
    for step, score in zip(steps, scores, strict=True):
        torch.testing.assert_close(step.score.double(), score, rtol=1e-3, atol=1e-6)


def test_paligemma_without_token_types_in_rows_of_unequal_counts():
    """No padding, so no mask, but fillers once one row keeps fewer tokens."""
    model = tiny_rotary.model("paligemma")
    batch = tiny_rotary.batch(
        "paligemma", [[("image",), 33], [2, ("image",), 2, ("image",), 4]], model.dtype
    )
    bare = {
        name: part
        for name, part in batch.inputs.items()
        if name not in ("token_type_ids", "attention_mask")
    }
    with sparsify(model, METHOD) as run, torch.no_grad():
        got = model(**bare).logits
    for b, row in enumerate(run.stats.tokens_per_layer):
        close(
            got[b, -row[-1] :],
            want("paligemma", METHOD, batch.alone[b], run, sample=b),
            f"sample {b}",
        )


@pytest.mark.parametrize("kind", SLIDING)
def test_an_image_after_a_text_turn_longer_than_the_window(kind):
    model = tiny_rotary.model(kind)
    image, cache = one(kind, model), DynamicCache(config=model.config)
    before = torch.randint(10, 90, (1, 31), generator=torch.Generator().manual_seed(3))
    pads = torch.ones_like(before)
    pads[0, 18:21] = 0  # in the part that the window still holds
    mask = torch.cat([pads, image["attention_mask"]], dim=1)
    places = contract.positions(mask)
    changes = {"attention_mask": mask, "position_ids": places[:, 31:]}
    types = {}
    if kind == "gemma3":
        types = {
            "token_type_ids": torch.cat([torch.zeros_like(before), image["token_type_ids"]], dim=1)
        }
    if tiny.OLD and types:
        pytest.skip(
            "transformers before 5.18 lets the blocks of a later turn begin at the wrong token, "
            "pruned or not"
        )
    with sparsify(model, METHOD) as run, torch.no_grad():
        model(input_ids=before, attention_mask=pads, position_ids=places[:, :31], **cached(cache))
        got = model(**{**image, **types, **changes}, **cached(cache)).logits[0]
    whole = {**image, **types, "input_ids": torch.cat([before, image["input_ids"]], dim=1)}
    whole |= {"attention_mask": mask, "position_ids": places}
    reference = tiny_rotary.model(kind, "eager", torch.float64)
    close(got, hidden.run(reference, whole, run.trace.samples[0])[0][31:], "an image after text")


def test_gemma3_with_placeholders_outside_the_vocabulary():
    model, other = tiny_rotary.model("gemma3"), tiny_rotary.model("gemma3", image=tiny.VOCAB + 7)
    inputs = one("gemma3", model)
    outside = {
        **inputs,
        "input_ids": inputs["input_ids"].masked_fill(
            inputs["input_ids"] == tiny.IMAGE, tiny.VOCAB + 7
        ),
    }
    answers = []
    for own, given in ((model, inputs), (other, outside)):
        with sparsify(own, METHOD) as run:
            answers.append(generate(own, given))
        assert run.stats.visual_tokens == (16,)
    assert torch.equal(torch.cat(answers[0].logits), torch.cat(answers[1].logits))


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefill_without_a_cache_gives_the_same_logits(kind):
    model = tiny_rotary.model(kind, "eager" if kind == "paligemma2" else "sdpa")
    inputs = tiny_rotary.batch(kind, tiny_rotary.rows(kind), model.dtype).inputs
    with sparsify(model, METHOD) as run, torch.no_grad():
        wanted = model(**inputs).logits
        got = model(**inputs, use_cache=False).logits
    for b, row in enumerate(run.stats.tokens_per_layer):
        close(got[b, -row[-1] :], wanted[b, -row[-1] :], f"sample {b}")


def test_experts_are_counted_as_they_run():
    model = tiny_rotary.model("qwen3_moe")
    with sparsify(model, METHOD) as run, torch.no_grad():
        model(**one("qwen3_moe", model))
    assert run.stats.shape.ffn_width == 2 * 48  # experts a token, and their width


@pytest.mark.parametrize("kind", QWEN)
def test_grids_are_those_of_frames(kind):
    """Uniform keeps one token a cell: of a frame of 2 x 4 cut in two, one in each half."""
    if kind == "glm4v":
        rows = [[("image", 2, 4), 2, ("image", 2, 4), 6], [("image", 4, 2), 2, ("image", 2, 4), 5]]
    else:
        rows = [[("video", 2, 2, 4), 6], [("image", 4, 2), 2, ("video", 1, 2, 4), 5]]
    model = tiny_rotary.model(kind)
    inputs = tiny_rotary.batch(kind, rows, model.dtype).inputs
    with sparsify(model, Uniform(retain=4)) as run:
        generate(model, inputs, num_beams=2)
        traces = [steps[0].keep.tolist() for steps in run.trace.samples]
    for keep, portrait in zip(traces, (0, 0, 1, 1), strict=True):
        halves = [(k // 8, (k % 8) // 4 if portrait and k < 8 else (k % 4) // 2) for k in keep]
        assert sorted(halves) == [(0, 0), (0, 1), (1, 0), (1, 1)], keep


@pytest.mark.parametrize("kind", QWEN)
def test_positions_that_are_given_change_nothing(kind):
    model = tiny_rotary.model(kind)
    inputs = tiny_rotary.batch(kind, tiny_rotary.rows(kind), model.dtype).inputs
    names = ("input_ids", "image_grid_thw", "attention_mask", "mm_token_type_ids")
    with sparsify(model, Uniform(retain=0.5, sites=(0, 3))), torch.no_grad():
        plain = model(**inputs).logits
        places, _ = model.model.get_rope_index(**{name: inputs[name] for name in names})
        text = contract.positions(inputs["attention_mask"])[None]
        for given in (places, torch.cat([text, places])):
            assert torch.equal(model(**inputs, position_ids=given).logits, plain)


@pytest.mark.parametrize("kind", QWEN)
@pytest.mark.mode("a second turn with an image, M-RoPE")
def test_a_second_turn_with_a_new_image_and_m_rope_needs_positions(kind):
    """Without positions transformers looks for the grids of both turns and fails, pruned or not."""
    model = tiny_rotary.model(kind)
    first, second = one(kind, model), one(kind, model, text=5, seed=1)
    both = {
        name: torch.cat(
            [part, second[name]], dim=int("token" in name or "ids" in name or "mask" in name)
        )
        for name, part in first.items()
    }
    names = ("input_ids", "image_grid_thw", "attention_mask", "mm_token_type_ids")
    places, _ = model.model.get_rope_index(**{name: both[name] for name in names if name in both})
    length = first["input_ids"].shape[1]
    later = {
        **second,
        "attention_mask": both["attention_mask"],
        "position_ids": places[..., length:],
    }
    for method in (None, METHOD):
        with nullcontext() if method is None else sparsify(model, METHOD), torch.no_grad():
            cache = output_cache(model(**first, **cached(DynamicCache(config=model.config))))
            with pytest.raises(RuntimeError, match="size of tensor"):
                model(**{**later, "position_ids": None}, **cached(cache))
    with sparsify(model, METHOD) as run, torch.no_grad():
        cache = DynamicCache(config=model.config)
        parts, steps = [model(**first, **cached(cache)).logits], run.trace.samples[0]
        parts.append(model(**later, **cached(cache)).logits)
        then = [(length, run.trace.samples[0])]
    wanted, _ = hidden.run(tiny_rotary.model(kind, "eager", torch.float64), both, steps, then=then)
    close(torch.cat(parts, dim=1)[0], wanted, "two images, two turns")
