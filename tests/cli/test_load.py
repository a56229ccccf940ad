"""What the hash of a model's files sees, and names that are none."""

import pytest
import torch

from sparsight.cli.load import PIECE, PIECES, hash_files, load_model
from sparsight.errors import ModelError

LONG = 3 * PIECES * PIECE


def write(folder, data, name="model.safetensors"):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / name).write_bytes(data)
    return hash_files(str(folder))


@pytest.mark.parametrize("size", [10, LONG])
def test_equal_files_have_one_hash(tmp_path, size):
    data = bytes(size)
    assert write(tmp_path / "a", data) == write(tmp_path / "b", data)
    assert write(tmp_path / "a", data) != write(tmp_path / "a", bytes(size + 1))


@pytest.mark.parametrize("size", [10, LONG])
@pytest.mark.parametrize("at", [0, -1])
def test_other_weights_of_the_same_size_have_another_hash(tmp_path, size, at):
    data = bytearray(size)
    before = write(tmp_path / "a", bytes(data))
    data[at] = 1
    assert write(tmp_path / "a", bytes(data)) != before


def test_a_run_of_changed_weights_is_seen(tmp_path):
    data = bytearray(LONG)
    before = write(tmp_path / "a", bytes(data))
    start = LONG // 2
    data[start : start + LONG // (PIECES - 1)] = bytes([1]) * (LONG // (PIECES - 1))
    assert write(tmp_path / "a", bytes(data)) != before


def test_names_count_and_nothing_is_known_of_a_hub_id(tmp_path):
    assert write(tmp_path / "a", b"x") != write(tmp_path / "b", b"x", "other.safetensors")
    assert hash_files("somebody/some-model") == ""


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_this_folder(tmp_path, monkeypatch, name):
    write(tmp_path, b"x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="the name of the model is empty; give its folder"):
        hash_files(name)
    with pytest.raises(ModelError, match="the name of the model is empty; give its folder"):
        load_model(name, torch.device("cpu"))
