"""Checkpoints, engines and references, each made once; the suite's warnings are vLLM's own."""

import importlib.util
from dataclasses import dataclass

import pytest

from sparsight.serve.vllm.settings import build_method
from tests.support import vllm_engine, vllm_models

HAVE = importlib.util.find_spec("vllm") is not None
WORKER = "sparsight.serve.vllm.cpu_worker.SparseCPUWorker"
CHUNK = 32  # tokens of a prefill at a time, fewer than an image has


@dataclass(frozen=True)
class Case:
    """A family in the tests.

    Args:
        architecture: that a user names.
        save: makes the checkpoint in a folder.
        model: class of transformers.
        reference: what computes the true answers.
        image: id of the placeholder.
        shown: how a prompt shows an image.
        sizes: width and height of two images.
        space: where methods that leave it to the family compare tokens.
    """

    architecture: str
    save: object
    model: str
    reference: type
    image: int
    shown: str
    sizes: tuple
    space: str = "tokens"

    @property
    def options(self):
        return {"worker_cls": WORKER} if self.space == "features" else {}

    def method(self, name):
        return build_method(name).for_space(self.space)


SQUARE = ((112, 112), (112, 112))
WIDE = ((112, 56), (70, 112))
MIXED = ((168, 140), (112, 196))  # landscape and portrait
CASES = {
    "llava": Case(
        "SparsightLlavaForConditionalGeneration",
        vllm_models.save_llava,
        "LlavaForConditionalGeneration",
        vllm_engine.LlavaReference,
        vllm_models.IMAGE,
        "<image>",
        SQUARE,
    ),
    "llava_next": Case(
        "SparsightLlavaNextForConditionalGeneration",
        vllm_models.save_llava_next,
        "LlavaNextForConditionalGeneration",
        vllm_engine.LlavaNextReference,
        vllm_models.IMAGE,
        "<image>",
        WIDE,
    ),
    "qwen2_5_vl": Case(
        "SparsightQwen2_5_VLForConditionalGeneration",
        vllm_models.save_qwen,
        "Qwen2_5_VLForConditionalGeneration",
        vllm_engine.QwenReference,
        vllm_models.PADS,
        vllm_models.WRAPPED,
        MIXED,
        "features",
    ),
    "qwen3_vl": Case(
        "SparsightQwen3VLForConditionalGeneration",
        lambda folder: vllm_models.save_qwen(folder, "3"),
        "Qwen3VLForConditionalGeneration",
        vllm_engine.QwenReference,
        vllm_models.PADS,
        vllm_models.WRAPPED,
        MIXED,
        "features",
    ),
    "backend": Case(
        "SparsightTransformersMultiModalForCausalLM",
        vllm_models.save_llava,
        "LlavaForConditionalGeneration",
        vllm_engine.LlavaReference,
        vllm_models.IMAGE,
        "<image>",
        SQUARE,
    ),
}


def pytest_runtest_setup():
    if not HAVE:
        pytest.skip("vLLM cannot be imported; `make vllm-test` installs it and runs these")


@pytest.fixture(autouse=True)
def no_deprecated_calls():
    """vLLM's own calls of transformers are not ours to judge."""


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory):
    """Return the folder of a family's checkpoint."""
    made = {}

    def get(family):
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            CASES[family].save(made[family])
        return made[family]

    return get


@pytest.fixture(scope="session", autouse=True)
def reference_of(folder_of):
    """Return the reference of a family; all are made before any engine.

    vLLM's backend for transformers changes classes of transformers for the process.
    """
    import torch
    import transformers

    made = {}

    def get(family):
        if family not in made:
            case, folder = CASES[family], folder_of(family)
            kind = getattr(transformers, case.model)
            model = kind.from_pretrained(folder, dtype=torch.float32)
            processor = transformers.AutoProcessor.from_pretrained(folder)
            made[family] = case.reference(model, processor, case.image)
        return made[family]

    for family in CASES if HAVE else ():
        get(family)
    return get


@pytest.fixture(scope="module")
def running(request, folder_of):
    """An engine of a family and a method, in chunks; `request.param` names both."""
    family, method = request.param
    case = CASES[family]
    chunks = {"max_num_batched_tokens": CHUNK, "long_prefill_token_threshold": CHUNK}
    sparsight = {"method": method, "retain": 16}
    with vllm_engine.engine(
        folder_of(family), case.architecture, sparsight, **case.options, **chunks
    ) as llm:
        yield Running(llm, family, method)


@dataclass(frozen=True)
class Running:
    """An engine that runs.

    Args:
        llm: of vLLM.
        family: a key of CASES.
        method: by name.
    """

    llm: object
    family: str
    method: str
