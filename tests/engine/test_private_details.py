"""What sparsight touches inside transformers; each test says which detail has moved."""

import inspect

import pytest
import torch
from transformers import (
    AutoModel,
    Cache,
    CohereConfig,
    DynamicCache,
    Gemma2Config,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    OlmoConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SiglipVisionModel,
)
from transformers.cache_utils import DynamicLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface
from transformers.models.gemma2 import modeling_gemma2

from sparsight.engine import generate_guard
from sparsight.engine.tap import TAP_NAME, attach_tap
from sparsight.families import LLAVA, families
from sparsight.sequence.rater_rows import AttentionCall, RaterRows
from tests.support import tiny
from tests.support.caches import NAME, cached
from tests.support.cases import tiny_model

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
DECODERS = [
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
    MistralConfig,
    Gemma2Config,
    CohereConfig,
    OlmoConfig,
    Phi3Config,
]


# ---- engine.py


def watch(model, path, inputs):
    """Names of the arguments that a module gets."""
    seen = []
    module = model.get_submodule(path)
    handle = module.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((len(args), set(kwargs))), with_kwargs=True
    )
    with torch.no_grad():
        model(**inputs, **cached(DynamicCache()))
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_arguments_of_decoder_and_layers(kind):
    model, inputs = tiny_model("sdpa", kind=kind), tiny.batch([["image", 3]]).inputs
    placed, named = watch(model, "model.language_model", inputs)
    needed = {"inputs_embeds", "attention_mask", NAME}
    assert placed == 0, "the base model now calls its decoder by position"
    assert needed <= named, f"the decoder no longer gets {needed - named} by name"
    placed, named = watch(model, "model.language_model.layers.3", inputs)
    needed = {"attention_mask", "position_embeddings", "position_ids", NAME}
    assert placed == 1, "a layer's hidden states are no longer its only positional argument"
    assert needed <= named, f"decoder layers no longer get {needed - named} by name"


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_parts_of_the_decoder(kind):
    decoder = tiny_model("sdpa", kind=kind).model.language_model
    for name in ("layers", "rotary_emb", "norm"):
        assert hasattr(decoder, name), f"the decoder no longer has {name!r}"
    assert hasattr(decoder.rotary_emb, "inv_freq"), "the rotary module no longer has 'inv_freq'"
    assert all(hasattr(layer, "self_attn") for layer in decoder.layers), (
        "layers no longer have 'self_attn'"
    )
    hidden = torch.zeros(2, 3, 64, dtype=torch.float64)
    table = decoder.rotary_emb(hidden, torch.arange(3)[None])
    assert [part.shape for part in table] == [(1, 3, 16)] * 2, (
        "rotary_emb no longer gives (cos, sin) of (1, L, d)"
    )
    assert isinstance(decoder.layers[0](hidden, position_embeddings=table), torch.Tensor), (
        "a layer gives more than a tensor"
    )


def test_families_name_what_exists():
    import transformers

    from sparsight.models import mini_gemini

    # younger than the oldest supported version, or older than the newest
    renamed = {"mm_encoder_outputs", "image_hidden_states", "pixel_values_images"}
    for family in families():
        for name in family.classes:
            kind = getattr(transformers, name, None) or getattr(mini_gemini, name, None)
            if kind is None:
                continue  # younger than this version
            forward = inspect.signature(kind.forward).parameters
            own = (
                {"pixel_values"} if "pixel_values_images" in forward else set()
            )  # of Video-LLaVA, before 5.18
            missing = set(family.features) - set(forward) - renamed - own
            assert not missing, f"{name} no longer takes {missing}"
            assert tiny.OLD or "mm_encoder_outputs" in forward, (
                f"{name} takes encoded features by another name"
            )
            assert "input_ids" in forward, f"{name} no longer takes input_ids"
            known = {field for field in family.visual_ids if hasattr(kind.config_class, field)}
            assert known or not hasattr(kind, "config_class"), (
                f"{name}'s config names placeholders otherwise"
            )


def test_generate_encodes_images_into_an_argument_we_know():
    model = tiny.tiny_llava()
    inputs = tiny.batch([["image", 3]]).inputs
    seen = []
    base = model.model
    base.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    model.generate(**inputs, max_new_tokens=3)
    features = set(families()[0].features)

    def brings_images(kwargs):
        return any(kwargs.get(name) is not None for name in features)

    bring = list(map(brings_images, seen))
    assert bring[0], f"generate() hands the images over in none of {features}"
    assert bring[1:] == [False, False], "a decode step brings image features, and would be pruned"
    assert all("input_ids" in kwargs for kwargs in seen), "generate() no longer passes input_ids"


# ---- scaling.py


def test_encoders_that_take_images_of_any_size():
    model = tiny_model("sdpa")
    inputs = tiny.batch([["image", 3]]).inputs
    seen = []
    tower = model.get_submodule("model." + LLAVA.encoder)
    for encoder in (type(tower), SiglipVisionModel):
        parameters = inspect.signature(encoder.forward).parameters
        assert {"pixel_values", "interpolate_pos_encoding"} <= set(parameters), (
            f"{encoder.__name__} takes one size"
        )
    projector = model.get_submodule("model." + LLAVA.projector)
    handle = projector.register_forward_hook(lambda _, __, out: seen.append(out.shape))
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    assert seen == [(1, tiny.VISUAL, 64)], (
        "the projector no longer gives (images, visual tokens, width)"
    )
    (layout,) = LLAVA.layouts(model.model.config, inputs["input_ids"], inputs)
    assert layout.sizes == ((6, 6),), "the vision config names its sizes otherwise"


# ---- ledger.py


def test_dynamic_layer():
    cache = DynamicCache()
    assert cache.layer_class_to_replicate is DynamicLayer, (
        "a lazy DynamicCache no longer makes DynamicLayer"
    )
    assert cache.layers == [], "a DynamicCache without a config no longer makes its layers lazily"
    assert cache.offloading is False, "Cache no longer has 'offloading'"
    for name in (
        "update",
        "crop",
        "reset",
        "reorder_cache",
        "batch_repeat_interleave",
        "batch_select_indices",
    ):
        assert name in dir(DynamicLayer), f"DynamicLayer no longer has {name!r}"
    layer = DynamicLayer()
    layer.update(torch.zeros(2, 1, 5, 4), torch.zeros(2, 1, 5, 4))
    assert layer.is_initialized, "DynamicLayer no longer has 'is_initialized'"
    assert layer.keys.shape == (2, 1, 5, 4), "DynamicLayer no longer stores (B, H, N, d) in 'keys'"
    assert layer.get_mask_sizes(3) == (8, 0), "mask sizes no longer follow get_seq_length()"
    layer.crop(-2)
    assert layer.get_seq_length() == 3, "crop(-n) no longer drops n tokens"


def test_mask_sizes_ask_the_length():
    """The ledger answers with the logical length only if the layer asks itself."""

    class Longer(DynamicLayer):
        def get_seq_length(self):
            return 40

    layer = Longer()
    layer.update(torch.zeros(1, 1, 5, 4), torch.zeros(1, 1, 5, 4))
    assert layer.get_mask_sizes(1) == (41, 0), "get_mask_sizes() no longer asks get_seq_length()"


def test_every_method_of_a_layer_is_known():
    """A new method that changes what is stored would leave the ledger behind."""
    known = {
        "activate_past_recording", "batch_repeat_interleave", "batch_select_indices", "crop",
        "get_mask_sizes", "get_max_length", "get_max_cache_shape", "get_seq_length",
        "is_compileable", "is_croppable", "is_sliding", "lazy_initialization", "offload",
        "prefetch", "reorder_cache", "reset", "supports_early_init", "update",
    }  # fmt: skip
    new = {name for name in dir(DynamicLayer) if not name.startswith("_")} - known
    assert not new, f"DynamicLayer has new methods: {new}"


def test_cache_asks_its_layers():
    cache = DynamicCache()
    for length in (3, 9):
        cache.update(torch.zeros(1, 1, length, 4), torch.zeros(1, 1, length, 4), len(cache.layers))
    assert isinstance(cache, Cache)
    assert [cache.get_seq_length(i) for i in (0, 1)] == [3, 9], (
        "Cache.get_seq_length() no longer asks the layer"
    )


# ---- attention.py


def test_attention_registry():
    assert hasattr(AttentionInterface, "_global_mapping"), (
        "AttentionInterface no longer has '_global_mapping'"
    )
    assert callable(ALL_ATTENTION_FUNCTIONS.get_interface), (
        "ALL_ATTENTION_FUNCTIONS no longer has get_interface()"
    )
    assert "sdpa" in ALL_ATTENTION_FUNCTIONS.valid_keys(), "'sdpa' is no longer registered"


def decoder(config):
    torch.manual_seed(0)
    model = AutoModel.from_config(config(**SIZES), attn_implementation="eager").eval()
    assert model.config._attn_implementation == "eager", (
        "configs no longer hold '_attn_implementation'"
    )
    return model


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("config", DECODERS)
def test_the_tap_reads_what_eager_attention_does(config, padded):
    model, calls = decoder(config), []
    ids = torch.randint(1, 64, (2, 11), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if padded:
        mask[1, :3] = 0
    with torch.no_grad():
        want = model(ids, attention_mask=mask, output_attentions=True)
        remove = attach_tap(model.layers[1].self_attn, calls.append)
        got = model(ids, attention_mask=mask)
        remove()
    assert calls, (
        f"{config.__name__}: attention does not go through the config's '_attn_implementation'"
    )
    assert torch.equal(got.last_hidden_state, want.last_hidden_state), (
        "the tap changes what it reads"
    )
    rows, columns = torch.arange(3, 11), torch.arange(11)
    for sample in (0, 1):
        own = RaterRows(calls[0], torch.tensor([sample]), rows[None], columns[None])
        torch.testing.assert_close(
            own.mean_over_heads()[0], want.attentions[1][sample][:, rows].mean(dim=0)
        )
        torch.testing.assert_close(
            own.mean_over_raters()[0], want.attentions[1][sample][:, rows].mean(dim=1)
        )


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_the_tap_changes_no_bit(kernel):
    model, inputs = (
        tiny_model(kernel),
        tiny.batch([["image", 4]], dtype=tiny_model(kernel).dtype).inputs,
    )
    attention, calls = model.model.language_model.layers[2].self_attn, []
    config = attention.config
    with torch.no_grad():
        want = model(**inputs).logits
        remove = attach_tap(attention, calls.append)
        assert attention.config._attn_implementation == TAP_NAME
        assert attention.config.hidden_size == config.hidden_size
        assert torch.equal(model(**inputs).logits, want)
        remove()
    assert attention.config is config
    assert len(calls) == 1


def test_softcap_of_a_standalone_call():
    random = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, 6, 8, generator=random)
    key, value = (torch.randn(1, 2, 6, 8, generator=random) for _ in range(2))
    module = torch.nn.Module()
    module.num_key_value_groups = 2
    module.head_dim = 8
    module.training = False
    mask = torch.full((1, 1, 6, 6), torch.finfo(torch.float32).min).triu(1)
    settings = {"scaling": 0.5, "softcap": 0.8}
    _, weights = modeling_gemma2.eager_attention_forward(
        module, query, key, value, mask, **settings
    )
    for given in (mask, None, mask == 0):
        made = AttentionCall(query, key, given, **settings)
        own = RaterRows(made, None, torch.arange(6)[None], torch.arange(6)[None]).mean_over_raters()
        torch.testing.assert_close(own[0], weights[0].mean(dim=1))


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_masks_are_bool_for_sdpa_and_added_for_eager(kernel):
    model, seen = tiny_model(kernel), []
    inputs = tiny.batch([["image", 4], ["image", 9]], dtype=model.dtype).inputs
    layer = model.model.language_model.layers[0]
    handle = layer.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    assert seen[0].ndim == 4, "the model's mask has no longer 4 dimensions"
    assert (seen[0].dtype == torch.bool) == (kernel == "sdpa"), (
        f"{kernel} takes another kind of mask"
    )


# ---- guard.py


def test_fields_of_the_generation_config():
    model = tiny_model("sdpa")
    generate = inspect.signature(model.generate).parameters
    assert list(generate)[:2] == ["inputs", "generation_config"], (
        "generate() has another order of arguments"
    )
    fields = set(vars(GenerationConfig())) | set(generate)
    known = [name for name in generate_guard.REFUSED if name in fields]
    missing = (
        set(generate_guard.REFUSED) - set(known) - {"use_mtp"}
    )  # younger than the oldest supported version
    assert not missing, (
        f"generate() no longer knows {missing}: the guard looks for names that are gone"
    )
    assert "use_cache" in fields, "the generation config no longer has 'use_cache'"
