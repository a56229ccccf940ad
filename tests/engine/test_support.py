"""What is refused is known before anything is built: from a config alone, and from the model."""

import pytest
from transformers import CLIPConfig, LlavaConfig, Qwen2_5_VLConfig

from sparsight import SparseVLM, SparseVLMPlus, sparsify
from sparsight.engine.parts import find_parts
from sparsight.engine.support import check, describe, supports
from sparsight.errors import SettingError, UnsupportedError
from sparsight.methods import Downscale, Uniform
from tests.support import tiny, tiny_rotary

METHODS = (
    SparseVLM(retain=0.5),
    SparseVLM(retain=0.5, positions="renumber"),
    SparseVLM(retain=0.5, sites=(2, 99)),
    SparseVLMPlus(retain=0.5),
    Uniform(retain=0.5),
    Downscale(retain=0.5),
)


def what(refusals):
    """What is refused and why, without the names of classes."""
    return {(one.what, one.why, one.error) for one in refusals}


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("kind", ["qwen25", "qwen3", "gemma3", "paligemma"])
def test_a_config_tells_what_the_model_tells(kind, method, monkeypatch):
    model = tiny_rotary.model(kind)
    monkeypatch.setattr(model.config, "architectures", [type(model).__name__])
    by_config = supports(describe(model.config), method)
    assert what(by_config) == what(supports(find_parts(model), method))


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("kind", ["qwen25", "gemma3"])
def test_sparsify_raises_what_is_not_supported_and_nothing_else(kind, method):
    model = tiny_rotary.model(kind)
    refusals = supports(find_parts(model), method)
    if not refusals:
        with sparsify(model, method):
            return
    with pytest.raises(refusals[0].error) as raised:
        sparsify(model, method)
    assert all(refusal.message in str(raised.value) for refusal in refusals)


def test_a_plain_model_supports_everything_that_fits_it():
    parts = find_parts(tiny.tiny_llava())
    assert [supports(parts, method) for method in METHODS[:2]] == [(), ()]
    assert what(supports(parts, METHODS[2])).pop()[2] is SettingError


def test_every_reason_is_named_at_once():
    config = Qwen2_5_VLConfig()
    both = SparseVLMPlus(retain=0.5, positions="renumber")
    with pytest.raises(UnsupportedError) as raised:
        check(describe(config), both)
    assert "positions='renumber' is not supported for qwen-vl" in str(raised.value)
    assert "SparseVLMPlus is not supported for qwen-vl" in str(raised.value)


def test_a_config_names_the_class_of_model():
    assert describe(LlavaConfig()).name == "LlavaForConditionalGeneration"
    config = LlavaConfig(architectures=["LlavaModel"])
    assert describe(config).name == "LlavaModel"


def test_a_config_of_another_kind_of_model_is_refused():
    with pytest.raises(UnsupportedError, match="CLIPConfig is not for a model that takes images"):
        describe(CLIPConfig())
    with pytest.raises(UnsupportedError, match="FancyVLM is not a supported class"):
        describe(LlavaConfig(architectures=["FancyVLM"]))
