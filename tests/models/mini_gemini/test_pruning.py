"""Pruned Mini-Gemini: the contract for every method, tiles, Gemma, Mixtral, and what it costs."""

import copy
import functools
from dataclasses import replace

import pytest
import torch
import transformers as hf
from torch.utils.flop_counter import FlopCounterMode

from sparsight import SparseVLM, sparsify
from sparsight.engine.parts import find_parts
from sparsight.engine.support import describe, supports
from sparsight.errors import InputError, SettingError, UnsupportedError
from sparsight.families import decoder_shape, family_of
from sparsight.families.mini_gemini import read_mined
from sparsight.methods import FasterVLM, HiPrune, Pool, Uniform, VisionZip
from sparsight.models.mini_gemini import MiniGeminiForConditionalGeneration, towers
from tests.support import contract, tiny
from tests.support.cases import METHODS, PUBLISHED, same
from tests.support.tiny_families import family_batch, tiny_family
from tests.support.tiny_kinds import mined

HD, MIXTRAL = "mini-gemini-hd", "mini-gemini-mixtral"
ROWS = [["image", 5], [2, "image", 2, "image", 6]]
# what would have to happen before the second encoder is asked, or needs features of CLIP's alone
REFUSED = {
    "downscale": "not known to take images of any size",
    "tome": "a second encoder is asked for each patch",
    "tome renumbered": "a second encoder is asked for each patch",
    "cdpruner by clip": "its image encoder is a mini_gemini of width 32",
    "eadp by clip": "its image encoder is a mini_gemini of width 32",
}
EVERY = {**METHODS, **PUBLISHED}


@functools.cache
def gemma():
    """Mini-Gemini around a Gemma, with tiles."""
    config = mined(2, functools.partial(tiny.text_config, "gemma", head_dim=16))()
    torch.manual_seed(0)
    kind = hf.AutoModelForImageTextToText._model_mapping[type(config)]
    return tiny.ready(kind._from_config(config, attn_implementation="sdpa"), torch.float64)


@pytest.mark.parametrize("name", [name for name in EVERY if name not in REFUSED])
def test_every_method_keeps_the_contract(name):
    model, method = tiny_family(HD), EVERY[name]
    if isinstance(method.retain, int):  # a count of an image of 36 tokens
        method = replace(method, retain=method.retain / 36)
    contract.check(model, method, family_batch(model, HD, ROWS))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_by_name(name):
    with pytest.raises(UnsupportedError, match=REFUSED[name]):
        sparsify(tiny_family(HD), EVERY[name])


@pytest.mark.parametrize("method", [SparseVLM(retain=0.5), Uniform(retain=0.3), Pool(retain=0.4)])
def test_gemma_keeps_the_contract(method):
    contract.check(gemma(), method, family_batch(gemma(), HD, ROWS))


@pytest.mark.parametrize("name", [HD, MIXTRAL, "gemma"])
@pytest.mark.parametrize("method", [SparseVLM, Uniform, FasterVLM])
def test_full_retention_is_bit_identical(name, method):
    model = gemma() if name == "gemma" else tiny_family(name)
    given = family_batch(model, HD if name == "gemma" else name, ROWS).inputs
    options = {"max_new_tokens": 3, "output_logits": True, "return_dict_in_generate": True}
    with torch.no_grad():
        plain, before = model(**given).logits, model.generate(**given, **options)
        with sparsify(model, method(retain=1.0)):
            assert torch.equal(model(**given).logits, plain)
            assert same(model.generate(**given, **options), before)


@pytest.mark.parametrize("name", [HD, MIXTRAL])
def test_beams_in_a_batch_equal_beams_alone(name):
    model = tiny_family(name)
    batch = family_batch(model, name, ROWS)
    if tiny.OLD:
        batch = family_batch(model, name, ROWS[:1] * 2)  # older ones mix up images of copied rows
    options = {"max_new_tokens": 4, "num_beams": 2, "pad_token_id": 0}
    with sparsify(model, SparseVLM(retain=0.5)):
        together = model.generate(**batch.inputs, **options)
        for row, own in enumerate(batch.alone):
            alone = model.generate(**own, **options)
            assert together[row, -4:].tolist() == alone[0, -4:].tolist()


@torch.no_grad()
def test_signals_of_the_encoder_are_those_of_the_tokens():
    """Features are what the projector was given, and attention is that of the same tile."""
    model, seen = tiny_family(HD), {}
    given = family_batch(model, HD, [["image", 5]]).inputs

    class Reading(VisionZip):
        def select(self, view):
            seen["features"] = view.encoder.features()
            seen["class"] = view.encoder.class_attention()
            return super().select(view)

    Reading.name = "reading"
    projected = []
    hook = model.model.multi_modal_projector.register_forward_pre_hook(
        lambda _, args: projected.append(args[0])
    )
    with sparsify(model, Reading(retain=0.5)):
        model(**given)
    hook.remove()
    assert torch.equal(seen["features"][0], projected[0][0])
    tower = model.model.vision_tower.clip
    eager = tiny_family(HD, "eager").model.vision_tower.clip
    tiles = given["pixel_values"][0]
    rows = []
    for tile in (tiles[-1:], *tiles[:-1].split(1)):  # the overview's tokens come first
        output = eager(tile, output_attentions=True)
        rows.append(output.attentions[-2].mean(1)[0, 0, 1:])
    assert type(tower) is type(eager)
    want = torch.cat(rows)
    assert torch.allclose(seen["class"][0].to(want.dtype), want, atol=1e-5)


def test_grids_are_the_overview_and_the_tiles():
    model = tiny_family(HD)
    given = family_batch(model, HD, [["image", 3, "image", 2]]).inputs
    layout = family_of(model).layout(model.model.config, given)
    assert layout.sizes == ((4, 4),) * 10
    encoded = {"mm_encoder_outputs": {"image": object()}, "input_ids": given["input_ids"]}
    assert family_of(model).layout(model.model.config, encoded).sizes == layout.sizes


def test_mixtral_counts_the_experts_that_a_token_passes():
    config = tiny_family(MIXTRAL).config.text_config
    shape = decoder_shape(config)
    assert config.num_experts_per_tok == 2
    assert shape.ffn_width == 2 * config.intermediate_size
    assert decoder_shape(tiny.text_config("llama")).ffn_width == 96


@torch.no_grad()
def test_mixtral_s_flops_are_those_that_torch_counts():
    model = tiny_family(MIXTRAL, "eager")
    given = family_batch(model, MIXTRAL, [["image", 5]]).inputs
    counter = FlopCounterMode(display=False)
    decoder = model.model.language_model
    hooks = [
        decoder.register_forward_pre_hook(lambda *_: counter.__enter__() and None),
        decoder.register_forward_hook(lambda *_: counter.__exit__(None, None, None)),
    ]
    model(**given)
    for hook in hooks:
        hook.remove()
    config, tokens = decoder.config, given["input_ids"].shape[1]
    router = 2 * tokens * config.hidden_size * config.num_local_experts * config.num_hidden_layers
    with sparsify(model, SparseVLM(retain=0.5)) as run:
        model(**given)
    counted = counter.get_total_flops() - router
    assert run.stats.dense_prefill_flops == pytest.approx(counted, rel=2e-3)  # and rotary tables
    assert run.stats.prefill_flops < run.stats.dense_prefill_flops


@torch.no_grad()
def test_features_that_were_encoded_before():
    model, method = tiny_family(HD), HiPrune(retain=0.4)
    given = dict(family_batch(model, HD, ROWS).inputs)
    if tiny.OLD:
        return  # takes no encoded features
    with sparsify(model, method):
        want = model(**given).logits
        pixels = {key: given.pop(key) for key in ("pixel_values", "high_res_pixel_values")}
        encoded = model.get_image_features(**pixels)
        assert torch.equal(model(**given, mm_encoder_outputs={"image": encoded}).logits, want)


def test_pictures_that_do_not_fit():
    model = tiny_family(HD)
    given = dict(family_batch(model, HD, [["image", 5]]).inputs)
    high = given.pop("high_res_pixel_values")
    with pytest.raises(InputError, match="high_res_pixel_values are missing"):
        model(**given)
    for changed in (high[:, :, :32, :32], high.repeat(2, 1, 1, 1), high[0]):
        with pytest.raises(InputError, match="as the model's processor makes them"):
            model(**given, high_res_pixel_values=changed)
    with pytest.raises(InputError, match="exactly one of input_ids"):
        model.model(high_res_pixel_values=high)


def test_parts_that_moved_are_noticed(monkeypatch):
    config = tiny_family(HD).config
    monkeypatch.setattr(towers.AutoModel, "from_config", lambda _: torch.nn.Linear(2, 2))
    with pytest.raises(UnsupportedError, match=r"Linear has no embeddings and encoder\.stages"):
        towers.HighResTower(config.high_res_config)
    monkeypatch.undo()
    model = tiny_family(HD)
    moved = replace(read_mined(model.model.config), features="sampler")
    family = replace(family_of(model), image_encoder=lambda _: moved)
    parts = replace(find_parts(model), family=family)
    messages = [refusal.message for refusal in supports(parts, HiPrune(retain=0.5))]
    assert any("MinedTower has no part 'sampler'" in message for message in messages)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"high_res_size": 40}, "high_res_size=40 does not fit image_grid=2"),
        ({"image_grid": 0}, "does not fit image_grid=0"),
        ({"image_global": False}, r"image_seq_length=80, and 4 tiles .* make 64 visual tokens"),
    ],
)
def test_sizes_that_do_not_fit(changes, words):
    config = copy.deepcopy(tiny_family(HD).config)
    vars(config).update(changes)
    with pytest.raises(SettingError, match=words):
        MiniGeminiForConditionalGeneration(config)


def test_a_config_tells_what_is_refused():
    config = tiny_family(HD).config
    assert supports(describe(config), SparseVLM(retain=0.5)) == ()
    resized = replace(METHODS["downscale"])
    (refusal,) = supports(describe(config), resized)
    assert "mini-gemini" in refusal.message
