"""Private details of transformers: masks, windows, M-RoPE, DeepStack; a failure names the one."""

import inspect

import pytest
import torch
import transformers
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from sparsight.engine.ledger import LedgerLayer, SlidingLedgerLayer
from sparsight.families.refused import REFUSED
from tests.support import tiny, tiny_rotary
from tests.support.caches import NAME, cached
from tests.support.tiny_rotary import KINDS, MODELS, QWEN, WINDOW


def kernel_for(kind):
    return "eager" if kind == "paligemma2" else "sdpa"


def watch(kind, *calls, kernel=None):
    """Arguments of base model, decoder and every layer in the last of some calls on one cache."""
    model = tiny_rotary.model(kind, kernel or kernel_for(kind))
    cache, seen = DynamicCache(config=model.config), {}
    parts = {"base": model.model, "decoder": model.model.language_model}
    parts |= dict(enumerate(model.model.language_model.layers))
    handles = [
        part.register_forward_pre_hook(
            lambda _, a, k, n=name: seen.update({n: (len(a), dict(k))}), with_kwargs=True
        )
        for name, part in parts.items()
    ]
    with torch.no_grad():
        for call in calls:
            model(**call, **cached(cache))
    for handle in handles:
        handle.remove()
    return model, seen


def prompt(kind):
    model = tiny_rotary.model(kind, kernel_for(kind))
    return tiny_rotary.batch(kind, [[tiny_rotary.image(kind, 3, 5), 7]], model.dtype).alone[0]


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_of_layers(kind):
    inputs = prompt(kind)
    length = inputs["input_ids"].shape[1]
    model, seen = watch(kind, inputs)
    shown = seen["base"][1].get("attention_mask")
    assert isinstance(shown, torch.Tensor), "the base model no longer gets the mask by name"
    assert shown.ndim == 2, "the base model no longer gets the mask that shows padding"
    assert seen["decoder"][0] == 0, "the base model now calls its decoder by position"
    assert {"inputs_embeds", NAME, "position_ids"} <= set(seen["decoder"][1])
    for index, layer in enumerate(model.model.language_model.layers):
        placed, named = seen[index]
        needed = {"attention_mask", "position_embeddings", "position_ids", NAME}
        assert placed == 1, "a layer's hidden states are no longer its only positional argument"
        assert needed <= set(named), f"decoder layers no longer get {needed - set(named)} by name"
        tables = named["position_embeddings"]
        assert isinstance(tables, tuple), "rotary tables no longer come as a tuple (cos, sin)"
        assert [table.shape[-2] for table in tables] == [length] * 2, (
            "rotary tables no longer have L at dim -2"
        )
        assert [table.shape[-3] for table in tables] == [1] * 2, (
            "rotary tables no longer have the batch at dim -3"
        )
        assert hasattr(layer, "self_attn"), "layers no longer have 'self_attn'"


@pytest.mark.parametrize("kind", KINDS)
def test_no_mask_means_what_is_causal_says(kind):
    decoder = tiny_rotary.model(kind, kernel_for(kind)).model.language_model
    causal = {layer.self_attn.is_causal for layer in decoder.layers}
    assert causal == {not kind.startswith("paligemma")}, (
        f"{kind}: what no mask means has changed: {causal}"
    )


@pytest.mark.parametrize("kind", ["gemma3", "mistral", "qwen2_window"])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_masks_of_sliding_layers(kind, kernel):
    """The last column is the newest token, and no mask means that all lies within the window."""
    inputs, length = prompt(kind), prompt(kind)["input_ids"].shape[1]
    inputs = {
        n: p.to(tiny_rotary.model(kind, kernel).dtype) if p.is_floating_point() else p
        for n, p in inputs.items()
    }
    model, seen = watch(kind, inputs, {"input_ids": torch.tensor([[20]])}, kernel=kernel)
    types = (
        getattr(model.model.language_model.config, "layer_types", None) or ["sliding_attention"] * 8
    )
    assert length > WINDOW
    for index, name in enumerate(types):
        mask = seen[index][1]["attention_mask"]
        if name == "full_attention":
            assert mask is None or mask.shape[-1] == length + 1, (
                "masks of full layers no longer cover all tokens"
            )
            continue
        assert mask is not None, (
            "sliding layers go without a mask although the cache is longer than the window"
        )
        assert mask.shape == (1, 1, 1, WINDOW), (
            "masks of sliding layers no longer end at the newest token"
        )
        assert bool((mask if mask.dtype == torch.bool else mask == 0).all()), (
            "a window no longer holds W tokens"
        )


def test_sliding_layer():
    layer = DynamicSlidingWindowLayer(sliding_window=4)
    assert layer.is_sliding, "sliding cache layers no longer say so"
    full, _ = layer.update(torch.zeros(1, 1, 6, 2), torch.zeros(1, 1, 6, 2))
    assert full.shape[-2] == 6, "update() no longer gives all keys back"
    assert layer.keys.shape[-2] == 3, "a sliding layer no longer stores W - 1 entries"
    assert layer.cumulative_length == 6, (
        "'cumulative_length' is no longer the number of tokens seen"
    )
    assert layer.sliding_window == 4, "a sliding layer no longer has 'sliding_window'"
    layer.cumulative_length = 40
    assert layer.get_seq_length() == 40, "get_seq_length() no longer says 'cumulative_length'"
    assert layer.get_mask_sizes(1) == (4, 37), (
        "get_mask_sizes() no longer follows 'cumulative_length' alone"
    )
    assert tiny.OLD or layer.record_past is False, "a sliding layer no longer has 'record_past'"
    short = DynamicSlidingWindowLayer(sliding_window=9)
    short.update(torch.zeros(1, 1, 6, 2), torch.zeros(1, 1, 6, 2))
    short.crop(-2)
    assert short.cumulative_length == short.keys.shape[-2] == 4, (
        "crop() within the window no longer drops n tokens"
    )


def test_every_attribute_of_a_sliding_layer_is_known():
    """A new method that changes what is stored would leave the ledger behind."""
    known = {"activate_past_recording", "is_sliding"}
    new = (
        {name for name in dir(DynamicSlidingWindowLayer) if not name.startswith("_")}
        - set(dir(DynamicLayer))
        - known
    )
    assert not new, f"DynamicSlidingWindowLayer has new methods: {new}"
    assert set(vars(DynamicSlidingWindowLayer(sliding_window=4))) - set(vars(DynamicLayer())) <= {
        "sliding_window", "cumulative_length", "_sliding_window_tensor", "record_past",
    }, "DynamicSlidingWindowLayer keeps a new state"  # fmt: skip


def test_ledgers_enter_no_table_of_transformers():
    for ledger in (LedgerLayer, SlidingLedgerLayer):
        assert getattr(ledger, "_layer_type", None) is None, (
            "transformers would make ledgers for everybody"
        )
    from transformers import cache_utils

    tables = [
        table for name, table in vars(cache_utils).items() if name.endswith("LAYER_TYPE_MAPPING")
    ]
    assert not any(
        ledger in table.values() for table in tables for ledger in (LedgerLayer, SlidingLedgerLayer)
    )


@pytest.mark.parametrize("kind", MODELS)
def test_names_in_configs(kind):
    config = tiny_rotary.model(kind, kernel_for(kind)).model.config
    text, vision = config.get_text_config(), config.vision_config
    if kind in QWEN:
        assert vision.spatial_merge_size == tiny_rotary.MERGE, (
            "the vision config no longer has 'spatial_merge_size'"
        )
        assert config.video_token_id == tiny_rotary.VIDEO, (
            "the config no longer has 'video_token_id'"
        )
    elif kind == "gemma3":
        assert config.mm_tokens_per_image == 16, "the config no longer has 'mm_tokens_per_image'"
        assert text.layer_types[:3] == ["sliding_attention"] * 2 + ["full_attention"], (
            "'layer_types' has other names"
        )
    else:
        assert vision.image_size // vision.patch_size == 5, (
            "the vision config names its sizes otherwise"
        )
    assert config.image_token_id == tiny.IMAGE, "the config no longer has 'image_token_id'"


def test_a_window_without_layer_types():
    config = tiny_rotary.model("mistral").model.language_model.config
    kinds = getattr(config, "layer_types", None)
    assert config.sliding_window == WINDOW, "the text config no longer has 'sliding_window'"
    assert kinds is None or set(kinds) == {"sliding_attention"}, (
        "Mistral's layers are of another kind"
    )


def test_rotary_modules():
    for kind in QWEN:
        rotary = tiny_rotary.model(kind).model.language_model.rotary_emb
        assert hasattr(rotary, "mrope_section"), (
            f"{kind}: the rotary module no longer shows its M-RoPE"
        )
    rotary = tiny_rotary.model("gemma3").model.language_model.rotary_emb
    for name in ("full_attention_inv_freq", "sliding_attention_inv_freq"):
        assert hasattr(rotary, name), f"Gemma 3's rotary module no longer has {name!r}"


@pytest.mark.parametrize("kind", ["qwen3", "qwen3_moe"])
def test_deepstack(kind):
    model = tiny_rotary.model(kind)
    decoder, calls = model.model.language_model, []
    names = list(inspect.signature(decoder._deepstack_process).parameters)
    assert names == ["hidden_states", "visual_pos_masks", "visual_embeds"], (
        "DeepStack takes other arguments"
    )
    plain = decoder._deepstack_process

    def note(*args):
        calls.append([part.shape for part in args])
        return plain(*args)

    vars(decoder)["_deepstack_process"] = note
    inputs = prompt(kind)
    with torch.no_grad():
        model(**inputs)
    del vars(decoder)["_deepstack_process"]
    length = inputs["input_ids"].shape[1]
    wanted = [(1, length, 64), (1, length), (15, 64)]
    assert calls == [wanted] * 2, (
        "the decoder no longer asks itself by position for each plane of features"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_generate_hands_over_ids_and_features(kind):
    model, seen = tiny_rotary.model(kind, kernel_for(kind)), []
    inputs = prompt(kind)
    handle = model.model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs), with_kwargs=True
    )
    model.generate(**inputs, max_new_tokens=3, num_beams=2)
    handle.remove()
    copied = inputs["input_ids"].repeat_interleave(2, dim=0)
    assert torch.equal(seen[0]["input_ids"], copied), (
        "generate() no longer copies samples one behind the other"
    )
    features = {"pixel_values", "pixel_values_videos", "mm_encoder_outputs"}

    def brings_images(kwargs):
        return any(kwargs.get(name) is not None for name in features)

    bring = list(map(brings_images, seen))
    assert bring == [True, False, False], "features come with other steps than the first"


@pytest.mark.parametrize("name", REFUSED)
def test_refused_models_exist(name):
    assert tiny.OLD or hasattr(transformers, name), f"transformers no longer has {name}"
