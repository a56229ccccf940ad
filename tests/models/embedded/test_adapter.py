"""The shipped adapter is small, clean and checked before use."""

import json
import shutil

import pytest
from safetensors import safe_open

from sparsight.errors import EmbeddedModelError
from sparsight.models.embedded.adapter import (
    ADAPTER_DIR,
    ADAPTER_FILES,
    DECODER_FILE,
    EYE_FILE,
    _named,
    apply_adapter,
    check_adapter,
    read_manifest,
    read_tensors,
)
from sparsight.models.embedded.parts import LANGUAGE, VISION


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(ADAPTER_DIR, tmp_path / "adapter")


def test_the_shipped_adapter_matches_its_manifest():
    manifest = check_adapter()
    assert manifest.base == {part.name: part.sha256 for part in (VISION, LANGUAGE)}
    tensors = read_tensors(ADAPTER_DIR / DECODER_FILE, manifest.bits)
    assert {value.shape[0] for name, value in tensors.items() if name.endswith(".a")} == {
        manifest.rank
    }


def test_the_shipped_adapter_is_small_and_names_no_machine():
    files = [path for path in ADAPTER_DIR.iterdir() if path.is_file()]
    assert {path.name for path in files} == {*ADAPTER_FILES, "manifest.json"}
    assert sum(path.stat().st_size for path in files) <= 16_000_000
    headers = [path.read_text() for path in files if path.suffix == ".json"]
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as tensors:
                headers.append(str(tensors.metadata()))
                names = tensors.keys()
                assert {str(tensors.get_tensor(name).dtype) for name in names} <= {
                    "torch.float16",
                    "torch.uint8",
                    "torch.int32",
                }
    assert not [text for text in headers if "/" in text or "\\" in text]


def test_the_manifest_states_what_the_adapter_reaches():
    accuracy = read_manifest().accuracy
    assert accuracy["open"] >= 0.6
    assert accuracy["open_swapped"] <= 0.4  # guessing gives 0.23


@pytest.mark.parametrize("name", ADAPTER_FILES)
def test_one_altered_byte_is_found_before_anything_is_loaded(copy, name):
    path = copy / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(EmbeddedModelError, match=f"{name} is damaged"):
        apply_adapter(None, copy)


@pytest.mark.parametrize("name", [*ADAPTER_FILES, "manifest.json"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(EmbeddedModelError, match=name):
        check_adapter(copy)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"files": {}}'])
def test_a_broken_manifest_is_refused(copy, text):
    (copy / "manifest.json").write_text(text)
    with pytest.raises(EmbeddedModelError, match="not an adapter manifest"):
        check_adapter(copy)


@pytest.mark.parametrize("written", [1, 3])
def test_an_adapter_of_another_format_is_refused_by_name(copy, written):
    path = copy / "manifest.json"
    content = json.loads(path.read_text())
    if written == 1:
        del content["format"], content["bits"], content["scale"]
    else:
        content["format"] = written
    path.write_text(json.dumps(content))
    with pytest.raises(EmbeddedModelError, match=f"has format {written}, but .* reads format 2"):
        apply_adapter(None, copy)


def test_encoder_weights_take_the_names_of_older_transformers():
    tensors = read_tensors(ADAPTER_DIR / EYE_FILE, read_manifest().bits)
    weights = {
        name.removeprefix("encoder."): value
        for name, value in tensors.items()
        if name.startswith("encoder.")
    }
    assert _named(weights, weights) is weights
    attention = ("attention.query", "attention.key", "attention.value", "output.dense")
    parts = [f"attention.{part}" for part in attention] + ["mlp.fc1", "mlp.fc2", "norm1", "norm2"]
    older = {
        f"{layer}.{part}.{kind}"
        for layer in range(3, 11)
        for part in parts
        for kind in ("weight", "bias")
    }
    older |= {f"{layer}.layer_scale{number}.lambda1" for layer in range(3, 11) for number in (1, 2)}
    named = _named(weights, dict.fromkeys(older))
    assert named.keys() == older
    assert named["6.attention.output.dense.bias"] is weights["6.attention.o_proj.bias"]
    assert named["10.attention.attention.key.weight"] is weights["10.attention.k_proj.weight"]
