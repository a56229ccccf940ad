"""Registration, and that a plug-in that nobody chose changes nothing."""

import pytest

from sparsight.errors import UnsupportedError
from sparsight.serve.vllm import register
from sparsight.serve.vllm.registering import ARCHITECTURES, LOG
from tests.serve.vllm.engines.conftest import CASES
from tests.support.vllm_engine import Request, ask, engine, picture, said

ALL = 64


def test_registering_again_changes_nothing():
    from vllm import ModelRegistry

    register()
    before = {name: ModelRegistry.models[name] for name in ARCHITECTURES}
    register()
    assert {name: ModelRegistry.models[name] for name in ARCHITECTURES} == before


def test_vllm_finds_the_plug_in_by_itself():
    from vllm.plugins import DEFAULT_PLUGINS_GROUP, load_plugins_by_group

    assert load_plugins_by_group(DEFAULT_PLUGINS_GROUP)["sparsight"] is register


def test_on_an_untested_release_our_architectures_refuse_by_name(monkeypatch, caplog):
    import importlib

    import vllm
    from vllm import ModelRegistry

    monkeypatch.setattr(vllm, "__version__", "0.99.0")
    kept = {name: ModelRegistry.models.pop(name) for name in ARCHITECTURES}
    monkeypatch.setattr(LOG, "propagate", True)
    try:
        register()
        assert "vLLM 0.99.0 was never tested" in caplog.text
        place = {ModelRegistry.models[name].module_name for name in ARCHITECTURES}
        assert place == {"sparsight.serve.vllm.refused"}
        with pytest.raises(UnsupportedError, match=r"vLLM 0\.99\.0 was never tested"):
            importlib.import_module("sparsight.serve.vllm.refused")
    finally:
        ModelRegistry.models.update(kept)


def test_the_built_in_architecture_answers_as_before(folder_of, reference_of):
    case = CASES["llava"]
    request = Request(
        "USER : <image> what color is the shape ? ASSISTANT :", (picture(1, 112, 112),)
    )
    dense = Request(request.text, request.images, 1.0)
    wanted = reference_of("llava").answer(dense, case.method("uniform"))
    with engine(folder_of("llava")) as llm:
        (output,) = ask(llm, [request])
        assert said([output]) == [wanted]
        assert len(output.prompt_token_ids) == len(request.text.split()) - 1 + ALL
