"""Loads the model that a command runs: the embedded one, a folder, or one from the model hub."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

import sparsight.models.mini_gemini  # noqa: F401 - registers its classes
from sparsight.errors import ModelError, SparsightError, UnsupportedError
from sparsight.families import families, family_of
from sparsight.models import embedded

EMBEDDED = "embedded"
SMALL = (".json", ".jinja", ".txt", ".model")  # files that say how a model is used
LARGE = 64 * 2**20  # bytes
PIECES = 64  # of a large file that are read
PIECE = 4096  # bytes


def load_model(name: str | None, device: torch.device) -> tuple[Any, Any]:
    """Return a model in evaluation mode on a device, and its processor.

    Args:
        name: folder or hub id; None for the embedded model.
        device: that the model is put on.

    Raises:
        EmbeddedModelError: the embedded model is not prepared, or damaged.
        ModelError: the model cannot be found, reached or read.
        UnsupportedError: no family knows the model's class.
    """
    model: Any
    model, processor = embedded.load() if name is None else _load_named(name)
    return model.to(device).eval(), processor


def check_name(name: str) -> None:
    """Check that a model has a name; "" is that of a variable that is not set.

    Raises: ModelError: it has none. As a path it would be the folder that the command runs in.
    """
    if not name.strip():
        raise ModelError(
            "the name of the model is empty; give its folder or hub id, or leave --model out to "
            "use the embedded model."
        )


def _load_named(name: str) -> tuple[Any, Any]:
    check_name(name)
    if Path(name).is_file():
        raise ModelError(f"{name} is a file; give the model's folder or its hub id.")
    safe = {"trust_remote_code": False}
    try:
        # The config is a few kB. An unsupported model is refused before its weights are fetched.
        check_architecture(AutoConfig.from_pretrained(name, **safe))
        processor = AutoProcessor.from_pretrained(name, **safe)  # type: ignore[no-untyped-call]
        model = AutoModelForImageTextToText.from_pretrained(
            name, use_safetensors=True, dtype="auto", **safe
        )
    except SparsightError:
        raise
    except Exception as error:  # transformers raises anything on a broken folder or network
        raise ModelError(explain_failure(name, error)) from error
    return model, processor


def hash_files(name: str | None) -> str:
    """Return a SHA-256 of a model's files: names and sizes, and what they hold.

    It is known before the model is loaded. Of weights, which take long to read, 64 pieces of 4 kB
    count, at even distances from the first bytes to the last. So another training of the same model
    has another hash, unless it changed nothing but what lies between the pieces.

    Args: name: folder or hub id; None for the embedded model.
    Returns: "" for a hub id, whose files may not be here.
    Raises: ModelError: the name is empty.
    """
    if name is not None:
        check_name(name)
    folder = embedded.model_dir() if name is None else Path(name)
    digest = hashlib.sha256()
    found = sorted(path for path in folder.glob("*") if path.is_file()) if folder.is_dir() else []
    for path in found:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        if size <= PIECES * PIECE or (path.suffix in SMALL and size < LARGE):
            digest.update(path.read_bytes())
        else:
            _add_pieces(path, size, digest.update)
    return digest.hexdigest() if found else ""


def _add_pieces(path: Path, size: int, add: Callable[[bytes], None]) -> None:
    """Add pieces of a file to a hash, at even distances, the first and the last one included."""
    with path.open("rb") as file:
        for number in range(PIECES):
            file.seek(number * (size - PIECE) // (PIECES - 1))
            add(file.read(PIECE))


def check_architecture(config: Any) -> None:
    """Check by its config that a model's class is supported, or follows the pattern of LLaVA.

    Raises:
        UnsupportedError: neither is so.
    """
    supported = [name for family in families() for name in family.classes]
    classes = list(getattr(config, "architectures", None) or [type(config).__name__])
    if set(classes) & set(supported):
        return
    try:
        with torch.device("meta"):  # builds the modules without their weights
            model = AutoModelForImageTextToText.from_config(config)  # type: ignore[no-untyped-call]
    except Exception as error:  # no vision-language class, or one of its packages is missing
        raise UnsupportedError(
            f"{', '.join(classes)} is not supported; "
            f"supported model classes: {', '.join(supported)}."
        ) from error
    family_of(model)


def explain_failure(name: str, error: Exception) -> str:
    """Return a sentence that says why a model could not be loaded, and what to do."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    reason = reason.rstrip(".:")
    if "Torchvision" in reason:  # the processor of a model that takes videos needs it
        reason = f"{reason.split(' but it was')[0]}; run: pip install torchvision"
    if Path(name).is_dir():
        return f"the folder {name} cannot be loaded as a model: {reason}."
    return (
        f"the model {name!r} is no folder here and cannot be fetched from the model hub: {reason}. "
        "Check its name and the network, give --model a folder, or leave --model out to use the "
        "embedded model."
    )
