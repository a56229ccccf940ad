"""Attention of a site's own layer, on the sequence before the site: what it is, and no trace."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from transformers import DynamicCache

from sparsight import sparsify
from sparsight.errors import SettingError, UnsupportedError
from sparsight.methods import FastV, PyramidDrop, VScan
from sparsight.methods.view import Selection
from tests.support import contract, hidden, tiny, tiny_rotary
from tests.support.caches import NAME, cached
from tests.support.cases import KERNELS, Identity, tiny_model
from tests.support.tiny_families import family_batch, tiny_family

METHOD = PyramidDrop(retain=0.4)  # sites 2, 4 and 6 of 8


@dataclass(frozen=True)
class LooksAhead(Identity):
    """Reads the attention of the sites' own layers, and keeps everything."""

    attention_of: ClassVar[str] = "site"

    def raters(self, visual, text):
        return torch.ones(len(text), dtype=torch.bool)


def double(inputs):
    return {
        name: part.double() if part.is_floating_point() else part for name, part in inputs.items()
    }


def check_scores(run, model, batch, renumber=False):
    """Each site's scores are what the last token pays in that layer of an eager dense model."""
    length = batch.inputs["input_ids"].shape[1]
    for b, own in enumerate(batch.alone):
        steps, raters = run.trace.samples[b], run.trace.raters[b]
        if not steps:
            continue
        assert raters.tolist() == [length - 1]
        last = torch.tensor([own["input_ids"].shape[1] - 1])
        inputs = double(own)
        if renumber:
            inputs["position_ids"] = contract.positions(own["attention_mask"])
        wanted = hidden.ahead(model, inputs, steps, last, renumber=renumber)
        for step, score in zip(steps, wanted, strict=True):
            torch.testing.assert_close(step.score.double(), score, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("positions", ["keep", "renumber"])
@pytest.mark.parametrize("shape", [{}, {"num_key_value_heads": 1}, {"kind": "qwen3"}], ids=str)
def test_scores_are_those_of_the_sites_own_layer(kernel, positions, shape):
    model = tiny_model(kernel, **shape)
    batch = tiny.batch([["image", 5], ["image", 2, "image", 6], [9]], dtype=model.dtype)
    ids = contract.positions(batch.inputs["attention_mask"])
    method = PyramidDrop(retain=0.4, positions=positions)
    with sparsify(model, method) as run, torch.no_grad():
        model(**batch.inputs, position_ids=ids)
    reference = tiny_model("eager", **shape, dtype=torch.float64)
    check_scores(run, reference, batch, positions == "renumber")


@pytest.mark.parametrize(
    ("kind", "kernel"),
    [pair for pair in tiny_rotary.PAIRS if pair[0] not in ("qwen2", "qwen3_moe", "paligemma")],
)
def test_scores_on_other_positions_and_masks(kind, kernel):
    model = tiny_rotary.model(kind, kernel)
    batch = tiny_rotary.batch(kind, [*tiny_rotary.rows(kind), [12]], model.dtype)
    with sparsify(model, METHOD) as run, torch.no_grad():
        model(**batch.inputs)
    check_scores(run, tiny_rotary.model(kind, "eager", torch.float64), batch)


@pytest.mark.parametrize("name", ["llava-next", "mistral3", "aya-vision"])
def test_scores_on_other_families(name):
    model = tiny_family(name)
    batch = family_batch(model, name, [["image", 5], [2, "image", 2, "image", 6]])
    with sparsify(model, METHOD) as run, torch.no_grad():
        model(**batch.inputs, position_ids=contract.positions(batch.inputs["attention_mask"]))
    check_scores(run, tiny_family(name, "eager"), batch)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("positions", ["keep", "renumber"])
def test_scores_behind_a_past_that_was_pruned(kernel, positions):
    model, method = tiny_model(kernel), PyramidDrop(retain=0.4, positions=positions)
    first, second = (
        tiny.batch([["image", 4]], seed=seed, dtype=model.dtype).inputs for seed in (0, 1)
    )
    cache, start = DynamicCache(), first["input_ids"].shape[1]
    with sparsify(model, method) as run, torch.no_grad():
        model(**first, **cached(cache))
        before = run.trace.samples[0]
        mask = torch.cat([first["attention_mask"], second["attention_mask"]], dim=1)
        model(**{**second, "attention_mask": mask}, **cached(cache))
    both = {
        name: torch.cat([first[name], second[name]], dim=int(name != "pixel_values"))
        for name in first
    }
    last = torch.tensor([both["input_ids"].shape[1] - 1])
    wanted = hidden.ahead(
        tiny_model("eager", dtype=torch.float64),
        double(both),
        run.trace.samples[0],
        last,
        before=before,
        start=start,
        renumber=positions == "renumber",
    )
    for step, score in zip(run.trace.samples[0], wanted, strict=True):
        torch.testing.assert_close(step.score.double(), score, rtol=1e-3, atol=1e-6)


def test_scores_are_those_of_the_model_itself():
    """Asked without any mask of ours: the model's own maps, where nothing was removed yet."""
    model, inputs = tiny_model("eager"), tiny.batch([["image", 6]], dtype=torch.float32).inputs
    visual = inputs["input_ids"][0] == tiny.IMAGE
    with torch.no_grad():
        maps = model(**inputs, output_attentions=True).attentions
        for site in range(1, 8):
            with sparsify(model, PyramidDrop(retain=0.9, sites=(site,))) as run:
                model(**inputs)
            (step,) = run.trace.samples[0]
            row = maps[site][0, :, -1, visual].mean(dim=0)
            torch.testing.assert_close(step.score, row, rtol=1e-4, atol=1e-6)


def test_the_first_layer_rates_what_enters_the_decoder():
    model, inputs = tiny_model("eager"), tiny.batch([["image", 6]], dtype=torch.float32).inputs
    visual = inputs["input_ids"][0] == tiny.IMAGE
    with torch.no_grad():
        row = model(**inputs, output_attentions=True).attentions[0][0, :, -1, visual].mean(dim=0)
        with sparsify(model, PyramidDrop(retain=0.5, sites=(0,))) as run:
            model(**inputs)
    torch.testing.assert_close(run.trace.samples[0][0].score, row, rtol=1e-4, atol=1e-6)
    with pytest.raises(SettingError, match="No layer stands before site 0"):
        sparsify(model, FastV(retain=0.5, sites=(0,)))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["llava", "qwen25", "gemma3", "mistral"])
def test_looking_ahead_leaves_logits_and_cache_alone(kind, kernel):
    """Bit for bit, in a second turn with a new image too."""
    if kind == "llava":
        model = tiny_model(kernel)
        turns = [tiny.batch([["image", 4]], seed=s, dtype=model.dtype).inputs for s in (0, 1)]
    else:
        model = tiny_rotary.model(kind, kernel)
        rows = [[2, tiny_rotary.image(kind, 3, 5), 7]]
        turns = [tiny_rotary.batch(kind, rows, model.dtype, seed=s).inputs for s in (0, 1)]
    if kind == "gemma3" and tiny.OLD:
        turns = turns[:1]  # blocks of a later turn begin at the wrong token, pruned or not

    def run(cache):
        logits, length = [], 0
        for turn in turns:
            mask = turn["attention_mask"].new_ones(1, length + turn["input_ids"].shape[1])
            places = contract.positions(mask)[:, length:]
            given = {**turn, "attention_mask": mask, "position_ids": places}
            if kind == "qwen25":  # given a mask, it places all tokens seen so far
                given = {name: part for name, part in turn.items() if name != "attention_mask"}
            logits.append(model(**given, **cached(cache)).logits)
            length = mask.shape[1]
        return logits

    plain, own = DynamicCache(config=model.config), DynamicCache(config=model.config)
    with torch.no_grad():
        wanted = run(plain)
        with sparsify(model, LooksAhead(positions="keep", sites=(2, 5))):
            got = run(own)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    for left, right in zip(own.layers, plain.layers, strict=True):
        assert torch.equal(left.keys, right.keys)
        assert torch.equal(left.values, right.values)


def test_hooks_of_layers_are_called_once():
    model, calls = tiny.tiny_llava(), []
    layer = model.model.language_model.layers[2]
    layer.register_forward_pre_hook(lambda *_: calls.append("before"))
    layer.register_forward_hook(lambda *_: calls.append("after"))
    layer.self_attn.register_forward_hook(lambda *_: calls.append("attended"), always_call=True)
    with sparsify(model, METHOD), torch.no_grad():
        model(**tiny.batch([["image", 6]]).inputs)
    assert calls == ["before", "attended", "after"]


def test_outputs_of_each_layer_are_those_of_the_shortened_sequence():
    model = tiny_model("eager")
    inputs = tiny.batch([["image", 6]], dtype=model.dtype).inputs
    with sparsify(model, METHOD) as run:
        with torch.no_grad():
            out = model(**inputs, output_attentions=True, output_hidden_states=True)
        model(**inputs).logits.sum().backward()  # with gradients
    model.zero_grad()
    entered = run.stats.tokens_per_layer[0]
    assert tuple(part.shape[-1] for part in out.attentions) == entered
    assert tuple(part.shape[1] for part in out.hidden_states) == (entered[0], *entered)


def test_costs_of_looking_ahead_are_counted():
    model, batch = tiny_model("sdpa"), tiny.batch([["image", 6], [3, "image", 9], [7]])
    with sparsify(model, METHOD) as run, torch.no_grad():
        model(**batch.inputs)
    stats = run.stats
    entered = tuple((row[1], row[3], row[5]) for row in stats.tokens_per_layer)  # before 2, 4 and 6
    assert stats.ahead == entered
    with sparsify(model, FastV(retain=0.4, sites=(2,))) as other, torch.no_grad():
        model(**batch.inputs)
    assert other.stats.ahead == ((), (), ())
    shape = stats.shape
    once = shape.width * (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    without = {**vars(stats), "ahead": ()}
    assert stats.prefill_flops - type(stats)(**without).prefill_flops == 2 * once * sum(
        map(sum, entered)
    )


def test_nothing_is_looked_at_where_nothing_is_pruned():
    model, inputs = tiny_model("sdpa"), tiny.batch([["image", 6]]).inputs
    with sparsify(model, PyramidDrop(retain=1.0)) as run, torch.no_grad():
        model(**inputs)
    assert run.stats.ahead == ((),)
    with sparsify(model, VScan(retain=0.5)) as run, torch.no_grad():
        model(**inputs)
    assert run.stats.ahead == ((run.stats.tokens_per_layer[0][3],),)  # not at the input


def test_attention_that_cannot_be_read_is_refused(monkeypatch):
    model, inputs = tiny.tiny_llava(), tiny.batch([["image", 6]]).inputs
    with sparsify(model, METHOD) as run, torch.no_grad():
        attention = model.model.language_model.layers[2].self_attn
        monkeypatch.setattr(attention, "forward", lambda hidden_states, **_: (hidden_states, None))
        with pytest.raises(UnsupportedError, match="decoder layer 2 does not attend through"):
            model(**inputs)
        monkeypatch.undo()
        model(**inputs)
    assert run.stats.ahead


def test_calls_that_would_change_the_cache_are_refused(monkeypatch):
    model, inputs = tiny.tiny_llava(), tiny.batch([["image", 6]]).inputs
    with sparsify(model, METHOD), torch.no_grad():
        attention, asked = model.model.language_model.layers[2].self_attn, []
        plain = attention.forward

        def forward(hidden_states, **given):
            asked.append(given[NAME].get_seq_length())
            given[NAME].crop(0)
            return plain(hidden_states, **given)

        monkeypatch.setattr(attention, "forward", forward)
        with pytest.raises(UnsupportedError, match=r"call crop\(\) of their cache"):
            model(**inputs, **cached(DynamicCache()))
    assert len(asked) == 1


def test_an_error_on_the_way_is_the_callers():
    model, inputs = tiny.tiny_llava(), tiny.batch([["image", 6]]).inputs
    with sparsify(model, METHOD), torch.no_grad():
        norm = model.model.language_model.layers[2].input_layernorm
        handle = norm.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(**inputs)
        handle.remove()
        model(**inputs)


def test_another_name_is_refused():
    @dataclass(frozen=True)
    class Odd(PyramidDrop):
        attention_of = "behind"

        def select(self, view):
            return Selection(torch.arange(view.count)[None])

    with pytest.raises(SettingError, match="attention_of='behind' is not known"):
        Odd()
