"""Calls of generate() and the model are right, or refused before any image is encoded."""

import pytest
import torch
from PIL import Image
from transformers import DynamicCache, GenerationConfig, StaticCache, cache_utils, pipeline
from transformers.cache_utils import QuantizedCache

from sparsight import SparseVLM, sparsify
from sparsight.errors import AttachError, UnsupportedError
from sparsight.methods import Uniform
from tests.support import tiny, tiny_processor
from tests.support.caches import cached

METHOD = SparseVLM(retain=0.5)
FULL = SparseVLM(retain=1.0)


@pytest.fixture
def model():
    return tiny.tiny_llava(dtype=torch.float32)


@pytest.fixture
def inputs():
    return tiny.batch([["image", 6]], dtype=torch.float32).inputs


@pytest.fixture
def no_vision(model, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("the vision tower ran")

    monkeypatch.setattr(model.model.vision_tower, "forward", fail)


# ---- options


@pytest.mark.parametrize(
    "option", [{"prefill_chunk_size": 8}, {"use_cache": False}, {"cache_implementation": "static"}]
)
@pytest.mark.mode("options in the model's own generation config, or by place")
def test_a_model_config_fills_what_the_given_one_leaves_open(model, inputs, no_vision, option):
    for name, value in option.items():
        setattr(model.generation_config, name, value)
    given = GenerationConfig(max_new_tokens=2, pad_token_id=tiny.PAD)
    with (
        sparsify(model, METHOD),
        pytest.raises(UnsupportedError, match=rf"{next(iter(option))}.* is not supported"),
    ):
        model.generate(**inputs, generation_config=given)


def test_an_option_that_is_taken_back(model, inputs):
    with sparsify(model, METHOD):
        want = model.generate(**inputs, max_new_tokens=3)
        model.generation_config.prefill_chunk_size = 8
        assert torch.equal(
            model.generate(**inputs, max_new_tokens=3, prefill_chunk_size=None), want
        )


def test_positional_arguments_prune_alike(model, inputs):
    ids, rest = (
        inputs["input_ids"],
        {name: part for name, part in inputs.items() if name != "input_ids"},
    )
    with sparsify(model, METHOD) as run:
        want, raters = model.generate(**inputs, max_new_tokens=4), run.trace.raters[0].tolist()
        other = tiny.tiny_llava(seed=3, dtype=torch.float32)
        got = model.generate(ids, None, None, None, None, None, other, **rest, max_new_tokens=4)
        assert torch.equal(got, want)
        assert run.trace.raters[0].tolist() == raters
        with pytest.raises(UnsupportedError, match="prefill_chunk_size=8"):
            model.generate(ids, GenerationConfig(prefill_chunk_size=8), **rest)


@pytest.mark.parametrize("loop", [lambda *_, **__: None, "somebody/loop"])
@pytest.mark.mode("`custom_generate`")
def test_a_custom_loop(model, inputs, no_vision, loop):
    with (
        sparsify(model, METHOD),
        pytest.raises(UnsupportedError, match=r"custom_generate.*may not prefill once"),
    ):
        model.generate(**inputs, custom_generate=loop)


@pytest.mark.mode("`guidance_scale`, `streamer`")
def test_guidance_and_streams(model, inputs):
    said = []

    class Streamer:
        def put(self, tokens):
            said.extend(tokens.flatten().tolist())

        def end(self):
            said.append("end")

    plain = model.generate(**inputs, max_new_tokens=3, guidance_scale=1.5)
    with sparsify(model, FULL):
        assert torch.equal(model.generate(**inputs, max_new_tokens=3, guidance_scale=1.5), plain)
    with sparsify(model, METHOD):
        want = model.generate(**inputs, max_new_tokens=3)[0].tolist()
        model.generate(**inputs, max_new_tokens=3, streamer=Streamer())
    assert said == [*want, "end"]


@pytest.mark.mode("`pipeline`")
def test_a_pipeline():
    model, processor = tiny.tiny_llava(dtype=torch.float32), tiny_processor.processor()
    ask = pipeline("image-text-to-text", model=model, processor=processor)
    noise = torch.randint(
        0, 255, (24, 24, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    picture = Image.fromarray(noise.numpy())
    given = processor(text="<image> w20 w21 w22", images=picture, return_tensors="pt")
    with sparsify(model, METHOD):
        want = processor.batch_decode(
            model.generate(**given, max_new_tokens=4), skip_special_tokens=True
        )[0]
        said = ask(
            text="<image> w20 w21 w22", images=picture, generate_kwargs={"max_new_tokens": 4}
        )
    assert said[0]["generated_text"].partition("w22")[2] == want.partition("w22")[2] != ""


# ---- caches


@pytest.mark.mode("`StaticCache`, with and without torch.compile")
@pytest.mark.mode("quantised caches (FP8)")
@pytest.mark.mode("offloaded caches")
def test_caches_are_refused_before_an_image_is_encoded(model, inputs, no_vision):
    config = model.config.get_text_config()
    caches = {
        "StaticLayer": StaticCache(config=config, max_cache_len=64),
        "offloaded": DynamicCache(config=config, offloading=True),
    }
    if hasattr(cache_utils, "Fp8QuantizedLayer"):  # of later transformers
        caches["Fp8QuantizedLayer"] = QuantizedCache("fp8", config=config)
    with sparsify(model, METHOD):
        for kind, cache in caches.items():
            for call in (model, model.generate):
                with pytest.raises(UnsupportedError, match=rf"{kind}.*use DynamicCache"):
                    call(**inputs, **cached(cache))


@pytest.mark.parametrize("package", ["optimum.quanto", "hqq"])
@pytest.mark.mode("quantised caches (quanto, HQQ)")
def test_quantised_caches_of_other_packages(model, inputs, no_vision, package):
    pytest.importorskip(package)
    cache = QuantizedCache(package.removeprefix("optimum."), config=model.config.get_text_config())
    with (
        sparsify(model, METHOD),
        pytest.raises(UnsupportedError, match=r"QuantizedLayer.*use DynamicCache"),
    ):
        model(**inputs, **cached(cache))


@torch.no_grad()
@pytest.mark.mode("a pruned cache in another model, or after its block")
def test_a_pruned_cache_is_refused_in_another_model(model, inputs):
    """Which would attend without the mask that its short layers need."""
    other = tiny.tiny_llava(dtype=torch.float32)
    cache = DynamicCache()
    step = {"input_ids": torch.tensor([[9]])}
    with sparsify(model, METHOD):
        model(**inputs, **cached(cache))
        with pytest.raises(AttachError, match="another model's"):
            other(**step, **cached(cache))
    cache = DynamicCache()
    with sparsify(model, METHOD), sparsify(other, METHOD):
        model(**inputs, **cached(cache))
        other(**inputs)
        with pytest.raises(AttachError, match="another model's"):
            other(**step, **cached(cache))


# ---- outputs


@pytest.mark.mode("`output_hidden_states`, `output_attentions`")
def test_outputs_of_generate_are_as_long_as_the_layers(inputs):
    model = tiny.tiny_llava(dtype=torch.float32, attention="eager")
    given = {
        "output_hidden_states": True,
        "output_attentions": True,
        "return_dict_in_generate": True,
    }
    with sparsify(model, METHOD) as run:
        done = model.generate(**inputs, max_new_tokens=3, **given)
        layers = run.stats.tokens_per_layer[0]
    assert [part.shape[1] for part in done.hidden_states[0]] == [
        inputs["input_ids"].shape[1],
        *layers,
    ]
    assert [part.shape[-1] for part in done.attentions[0]] == list(layers)
    assert [part.shape[-1] for part in done.attentions[2]] == [count + 2 for count in layers]
    assert {part.shape[1] for part in done.hidden_states[1]} == {1}


@torch.no_grad()
@pytest.mark.mode("`logits_to_keep` as an int")
def test_last_logits_count_from_the_right(model, inputs):
    with sparsify(model, METHOD):
        every = model(**inputs).logits
        for count in (1, 3, 6):
            torch.testing.assert_close(
                model(**inputs, logits_to_keep=count).logits, every[:, -count:]
            )


# ---- compiled code


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch's tracer, about caches of functions
@pytest.mark.mode("torch.compile before `sparsify`, hidden in a wrapper or a `forward`")
def test_code_compiled_before_is_pruned_and_restored(inputs):
    """Nothing shows that a forward was compiled; the model prunes, and is as before afterwards."""
    torch._dynamo.reset()
    model, method = (
        tiny.tiny_llava(dtype=torch.float32, num_hidden_layers=3),
        Uniform(retain=0.5),
    )  # reads no attention
    decoder = model.model.language_model
    with sparsify(model, method):
        want = model(**inputs, use_cache=False).logits
    compiled = decoder.forward = torch.compile(decoder.forward, backend="eager")
    plain = model(**inputs, use_cache=False).logits
    with sparsify(model, method):
        torch.testing.assert_close(model(**inputs, use_cache=False).logits, want)
    assert decoder.forward is compiled
    torch.testing.assert_close(model(**inputs, use_cache=False).logits, plain)


def test_a_decoder_that_runs_past_its_hooks_is_refused(model, inputs, monkeypatch):
    decoder = model.model.language_model
    with sparsify(model, METHOD), torch.no_grad():
        monkeypatch.setattr(decoder, "layers", decoder.layers[:3])
        with pytest.raises(UnsupportedError, match="ran past its hooks"):
            model(**inputs)


@pytest.mark.mode("continuous batching (`generate_batch`, `init_continuous_batching`)")
def test_continuous_batching_is_refused(model, inputs):
    ids = [row.tolist() for row in inputs["input_ids"]]
    with sparsify(model, METHOD):
        with pytest.raises(UnsupportedError, match=r"continuous batching.*call generate\(\)"):
            model.generate_batch(ids)
        with (
            pytest.raises(UnsupportedError, match="continuous batching"),
            model.continuous_batching_context_manager(),
        ):
            pass
    assert not {"generate_batch", "init_continuous_batching"} & {*vars(model)}
