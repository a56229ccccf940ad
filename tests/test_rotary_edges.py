"""Corners of models with other positions or masks: sliding ledgers, later turns, odd calls, what is left behind."""

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicSlidingWindowLayer

from sparsight import sparsify
from sparsight.errors import AttachError, UnsupportedError
from sparsight.families import families
from sparsight.methods import SparseVLM, Uniform
from tests import contract, hidden, tiny, tiny_rotary
from tests.test_refusals import refuses
from tests.test_rotary import close, generate, want
from tests.tiny_rotary import KINDS, LLAVA, MODELS, QWEN, WINDOW

METHOD = SparseVLM(retain=0.5, positions="keep")
SLIDING = ("gemma3", "mistral", "qwen2_window")  # for Qwen2-VL see test_rotary.py


def one(kind, model, text=7, seed=0):
    return tiny_rotary.batch(kind, [[2, tiny_rotary.image(kind, 3, 5), text]], model.dtype, seed).alone[0]


def word(token):
    return {"input_ids": torch.tensor([[token]])}


# ---- sliding ledgers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SLIDING)
def test_a_full_window_cannot_be_cropped(kind):
    model = tiny_rotary.model(kind)
    cache = DynamicCache(config=model.config)
    with sparsify(model, METHOD), torch.no_grad():
        model(**one(kind, model), past_key_values=cache)
        with refuses(UnsupportedError, f"sliding window of {WINDOW}", "prefill again"):
            cache.layers[-1 if kind != "gemma3" else -2].crop(-1)
        with refuses(AttachError, "torn"):
            model(**word(20), past_key_values=cache)


@pytest.mark.parametrize("kind", SLIDING)
def test_a_window_that_is_not_full_is_cropped(kind):
    model = tiny_rotary.model(kind, sliding_window=200)
    inputs, cache = one(kind, model), DynamicCache(config=model.config)
    with sparsify(model, METHOD), torch.no_grad():
        model(**inputs, past_key_values=cache)
        lengths = [layer.keys.shape[-2] for layer in cache.layers]
        wanted = model(**word(21), past_key_values=cache).logits
        cache.crop(-1)
        model(input_ids=torch.tensor([[30, 31]]), past_key_values=cache)
        cache.crop(-2)
        assert [layer.keys.shape[-2] for layer in cache.layers] == lengths
        assert {layer.get_seq_length() for layer in cache.layers} == {inputs["input_ids"].shape[1]}
        close(model(**word(21), past_key_values=cache).logits, wanted, "after a crop")


@pytest.mark.parametrize("kind", SLIDING)
def test_chosen_repeated_and_reordered_samples(kind):
    model = tiny_rotary.model(kind)
    batch = tiny_rotary.batch(kind, tiny_rotary.rows(kind), model.dtype)
    cache, wanted = DynamicCache(config=model.config), []
    with sparsify(model, METHOD) as run, torch.no_grad():
        places = contract.positions(batch.inputs["attention_mask"])
        model(**batch.inputs, position_ids=places, past_key_values=cache)
        length = batch.inputs["input_ids"].shape[1]
        wanted = [
            want(kind, METHOD, own, run, said=[20, 21], sample=b, length=length)[-2:]
            for b, own in enumerate(batch.alone)
        ]
        cache.batch_select_indices(torch.tensor([1, 0]))
        cache.batch_repeat_interleave(2)
        cache.reorder_cache(torch.tensor([3, 0, 1, 2]))
        rows, mask = [0, 1, 1, 0], batch.inputs["attention_mask"]
        mask, parts = mask[rows], []
        for token in (20, 21):
            mask = torch.cat([mask, mask.new_ones(4, 1)], dim=1)
            given = {"input_ids": torch.full((4, 1), token), "position_ids": contract.positions(mask)[:, -1:]}
            parts.append(model(**given, attention_mask=mask, past_key_values=cache).logits)
    for row, sample in enumerate(rows):
        close(torch.cat(parts, dim=1)[row], wanted[sample], f"row {row}")


@pytest.mark.skipif(tiny.OLD, reason="transformers before 5.18 keep the length of a reset cache")
@pytest.mark.parametrize("kind", SLIDING)
def test_reset_makes_ordinary_layers(kind):
    model = tiny_rotary.model(kind)
    inputs, cache = one(kind, model), DynamicCache(config=model.config)
    kinds = [type(layer) for layer in cache.layers]
    with torch.no_grad():
        plain = model(**inputs).logits
        with sparsify(model, METHOD):
            model(**inputs, past_key_values=cache)
            cache.reset()
        assert [type(layer) for layer in cache.layers] == kinds
        assert DynamicSlidingWindowLayer in kinds
        assert torch.equal(model(**inputs, past_key_values=cache).logits, plain)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("kind", SLIDING)
def test_costs_are_those_of_what_is_stored(kind, lazy):
    """A cache made without a config keeps everything, whatever the windows."""
    model = tiny_rotary.model(kind)
    inputs, cache = one(kind, model), DynamicCache() if lazy else DynamicCache(config=model.config)
    with sparsify(model, METHOD) as run, torch.no_grad():
        parts = [model(**inputs, past_key_values=cache).logits[0]]
        stored = sum(x.numel() * x.element_size() for layer in cache.layers for x in (layer.keys, layer.values))
        assert run.stats.kv_cache_bytes == stored
        parts += [model(**word(token), past_key_values=cache).logits[0] for token in (20, 21)]
    close(torch.cat(parts), want(kind, METHOD, inputs, run, said=[20, 21]), "lazy" if lazy else "sliding")


# ---- later turns and other ways to call ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gemma3", *LLAVA])
def test_second_turn_with_a_new_image(kind):
    if tiny.OLD and kind == "gemma3":
        pytest.skip("transformers before 5.18 lets the blocks of a later turn begin at the wrong token, pruned or not")
    model, cache = tiny_rotary.model(kind), DynamicCache(config=tiny_rotary.model(kind).config)
    first, second = one(kind, model), one(kind, model, text=5, seed=1)
    length = first["input_ids"].shape[1]
    with sparsify(model, METHOD) as run, torch.no_grad():
        parts = [model(**first, past_key_values=cache).logits]
        steps = run.trace.samples[0]
        mask = torch.cat([first["attention_mask"], second["attention_mask"]], dim=1)
        changes = {"attention_mask": mask}
        if kind == "gemma3":  # transformers reads the blocks of all tokens, those in the cache included
            changes["token_type_ids"] = torch.cat([first["token_type_ids"], second["token_type_ids"]], dim=1)
        parts.append(model(**{**second, **changes}, past_key_values=cache).logits)
        later = run.trace.samples[0]
        parts += [model(**word(token), past_key_values=cache).logits for token in (20, 21)]
    both = {name: torch.cat([part, second[name]], dim=int(name != "pixel_values")) for name, part in first.items()}
    wanted, _ = hidden.run(
        tiny_rotary.model(kind, "eager", torch.float64),
        tiny_rotary.longer(kind, both, [20, 21]),
        steps,
        then=[(length, later)],
    )
    close(torch.cat(parts, dim=1)[0], wanted, "two images, two turns")


@pytest.mark.parametrize("kind", KINDS)
def test_second_turn_of_unequal_length(kind):
    """The padding of a later turn lies in the middle of the cache, and stays padding for every step that follows."""
    model = tiny_rotary.model(kind, "eager" if kind == "paligemma2" else "sdpa")
    batch = tiny_rotary.batch(kind, tiny_rotary.rows(kind), model.dtype)
    cache, first = DynamicCache(config=model.config), int(kind.startswith("paligemma"))
    turn = torch.randint(10, 90, (2, 6), generator=torch.Generator().manual_seed(2))
    mask = torch.cat([batch.inputs["attention_mask"], torch.tensor([[1] * 5, [0, 0, 1, 1, 1]])], dim=1)
    given = {} if kind in QWEN else {"position_ids": contract.positions(batch.inputs["attention_mask"]) + first}
    with sparsify(model, METHOD) as run, torch.no_grad():
        model(**batch.inputs, **given, past_key_values=cache)
        parts, deltas = [], getattr(model.model, "rope_deltas", first)
        for new in (turn[:, :5], turn[:, 5:]):
            if parts:
                mask = torch.cat([mask, mask.new_ones(2, 1)], dim=1)
            places = contract.positions(mask)[:, -new.shape[1] :] + deltas
            out = model(input_ids=new, attention_mask=mask, position_ids=places, past_key_values=cache)
            parts.append(out.logits)
    logits, length = torch.cat(parts, dim=1), batch.inputs["input_ids"].shape[1]
    for b, skip in ((0, 0), (1, 2)):
        real = mask[b].clone()
        real[: length - batch.alone[b]["input_ids"].shape[1]] = -1  # windows count padding that lies in the middle
        given = tiny_rotary.longer(kind, batch.alone[b], turn[b].tolist())
        given = {name: part.double() if part.is_floating_point() else part for name, part in given.items()}
        given["attention_mask"] = real[real >= 0][None]
        if kind not in QWEN:
            given["position_ids"] = contract.positions(given["attention_mask"]) + first
        reference = tiny_rotary.model(kind, "eager", torch.float64)
        wanted, _ = hidden.run(reference, given, run.trace.samples[b])
        close(logits[b, skip:], wanted[skip - 6 :], f"sample {b}")


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_paligemma_without_token_types(kernel):
    """transformers then lets everything see everything with sdpa, and is causal with eager attention."""
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
    as_seen = {name: part.double() if part.is_floating_point() else part for name, part in as_seen.items()}
    close(got, hidden.run(reference, as_seen, run.trace.samples[0])[0], kernel)


def test_gemma3_with_placeholders_outside_the_vocabulary():
    model, other = tiny_rotary.model("gemma3"), tiny_rotary.model("gemma3", image=tiny.VOCAB + 7)
    inputs = one("gemma3", model)
    outside = {
        **inputs,
        "input_ids": inputs["input_ids"].masked_fill(inputs["input_ids"] == tiny.IMAGE, tiny.VOCAB + 7),
    }
    answers = []
    for own, given in ((model, inputs), (other, outside)):
        with sparsify(own, METHOD) as run:
            answers.append(generate(own, given))
        assert run.stats.visual_tokens == (16,)
    assert torch.equal(torch.cat(answers[0].logits), torch.cat(answers[1].logits))


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_cache(kind):
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
def test_positions_that_are_given(kind):
    model = tiny_rotary.model(kind)
    inputs = tiny_rotary.batch(kind, tiny_rotary.rows(kind), model.dtype).inputs
    names = ("input_ids", "image_grid_thw", "attention_mask", "mm_token_type_ids")
    with sparsify(model, Uniform(retain=0.5, sites=(0, 3))), torch.no_grad():
        plain = model(**inputs).logits
        places, _ = model.model.get_rope_index(**{name: inputs[name] for name in names})
        text = contract.positions(inputs["attention_mask"])[None]
        for given in (places, torch.cat([text, places])):
            assert torch.equal(model(**inputs, position_ids=given).logits, plain)


# ---- what is left behind ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_nothing_is_left_behind(kind):
    model = tiny_rotary.model(kind, "eager")
    inputs = one(kind, model)

    def state():
        hooks = ("_forward_pre_hooks", "_forward_hooks")
        return [
            (set(vars(part)) - {"rope_deltas"}, vars(part).get("config"), [len(vars(part)[name]) for name in hooks])
            for part in model.modules()
        ]

    before = state()
    with torch.no_grad():
        plain = model(**inputs).logits
        with sparsify(model, METHOD):
            assert model(**inputs).logits.shape != plain.shape
        with pytest.raises(UnsupportedError), sparsify(model, METHOD):
            model(**inputs, labels=inputs["input_ids"])
        assert torch.equal(model(**inputs).logits, plain)
    assert state() == before


def test_families_have_names_of_their_own():
    names = [family.name for family in families()]
    classes = [name for family in families() for name in family.classes]
    assert len(set(names)) == len(names)
    assert len(set(classes)) == len(classes)
