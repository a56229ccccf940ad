"""Loads the model that a command is about: the embedded one, a folder, or one from the model hub."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from sparsight.errors import ModelError, SparsightError, UnsupportedError
from sparsight.families import families, family_of
from sparsight.models import embedded

EMBEDDED = "embedded"


def load_model(name: str | None, device: torch.device) -> tuple[Any, Any]:
    """Load a model and its processor, in evaluation mode.

    Args:
        name: folder or hub id; None for the embedded model.
        device: that it is put on.

    Raises:
        EmbeddedModelError: the embedded model is not prepared, or damaged.
        ModelError: the model cannot be found, reached or read.
        UnsupportedError: no family knows its class.
    """
    model: Any
    model, processor = embedded.load() if name is None else _load_named(name)
    return model.to(device).eval(), processor


def _load_named(name: str) -> tuple[Any, Any]:
    if Path(name).is_file():
        raise ModelError(f"{name} is a file; give the model's folder or its hub id.")
    safe = {"trust_remote_code": False}
    try:
        # the config is a few kB: what is not supported is refused before its weights are fetched
        check_architecture(AutoConfig.from_pretrained(name, **safe))
        processor = AutoProcessor.from_pretrained(name, **safe)  # type: ignore[no-untyped-call]
        model = AutoModelForImageTextToText.from_pretrained(
            name, use_safetensors=True, dtype="auto", **safe
        )
    except SparsightError:
        raise
    except (
        Exception
    ) as error:  # whatever a broken folder or a missing network makes transformers raise
        raise ModelError(explain(name, error)) from error
    return model, processor


def check_architecture(config: Any) -> None:
    """Check by its config that a model is of a supported class, or follows the pattern of one.

    Raises: UnsupportedError: it does not.
    """
    known = [name for family in families() for name in family.classes]
    given = list(getattr(config, "architectures", None) or [type(config).__name__])
    if set(given) & set(known):
        return
    try:
        with torch.device("meta"):  # its parts without their weights
            model = AutoModelForImageTextToText.from_config(config)  # type: ignore[no-untyped-call]
    except (
        Exception
    ) as error:  # a class that is no such model, or a part of it that is not installed
        names = ", ".join(known)
        raise UnsupportedError(
            f"{', '.join(given)} is not supported; supported model classes: {names}."
        ) from error
    family_of(model)


def explain(name: str, error: Exception) -> str:
    """Say in one sentence why a model could not be loaded, and what to do."""
    reason = next(
        (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
    )
    if Path(name).is_dir():
        return f"the folder {name} cannot be loaded as a model: {reason.rstrip('.:')}."
    return (
        f"the model {name!r} is no folder here and cannot be fetched from the model hub: {reason.rstrip('.:')}. "
        "Check its name and the network, give --model a folder, or leave --model out to use the embedded model."
    )
