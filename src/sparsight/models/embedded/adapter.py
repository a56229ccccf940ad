"""The shipped adapter: LoRA for the decoder, encoder layers and the projector, checked against a manifest before use.

Knows the adapter's files and how they are applied; knows nothing about where the base model comes
from. Only safetensors and JSON are read, never pickle.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from sparsight.errors import EmbeddedModelError
from sparsight.models.embedded.convert import optional
from sparsight.models.embedded.parts import sha256_of

ADAPTER_DIR = Path(__file__).parent / "adapter"
ADAPTER_FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "encoder.safetensors",
    "projector.safetensors",
)
MANIFEST_FILE = "manifest.json"
_OLD_NAMES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}


@dataclass(frozen=True)
class Manifest:
    """What is known about the adapter.

    Args:
        files: SHA-256 of each file, by name.
        base: SHA-256 of each wheel that the base model is made of, by distribution name.
        rank: rank of the LoRA matrices.
        training: what the training did: steps, examples, time.
        accuracy: exact-match accuracies on the test split, each in [0, 1].
    """

    files: dict[str, str]
    base: dict[str, str]
    rank: int
    training: dict[str, Any]
    accuracy: dict[str, float]


def read_manifest(folder: Path = ADAPTER_DIR) -> Manifest:
    """Reads the manifest beside an adapter.

    Raises:
        EmbeddedModelError: it is missing or not a manifest.
    """
    path = folder / MANIFEST_FILE
    try:
        return Manifest(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise EmbeddedModelError(
            f"the adapter folder {folder} holds no {MANIFEST_FILE}; reinstall sparsight."
        ) from error
    except (ValueError, TypeError) as error:
        raise EmbeddedModelError(
            f"{path} is not an adapter manifest ({error}); reinstall sparsight."
        ) from error


def check_adapter(folder: Path = ADAPTER_DIR) -> Manifest:
    """Compares every file of an adapter with its manifest and returns the manifest.

    Raises:
        EmbeddedModelError: a file is missing, unlisted in the manifest, or altered.
    """
    manifest = read_manifest(folder)
    for name in ADAPTER_FILES:
        path = folder / name
        wanted = manifest.files.get(name)
        if wanted is None or not path.is_file():
            raise EmbeddedModelError(
                f"the adapter folder {folder} holds no checked {name}; reinstall sparsight."
            )
        found = sha256_of(path)
        if found != wanted:
            raise EmbeddedModelError(
                f"{name} is damaged: SHA-256 {found}, but the manifest says {wanted}; reinstall sparsight."
            )
    return manifest


def apply_adapter(model: LlavaForConditionalGeneration, folder: Path = ADAPTER_DIR) -> Manifest:
    """Merges the checked adapter into a base model, in place.

    Args:
        model: the base model in float32.
        folder: the adapter's folder.

    Raises:
        EmbeddedModelError: the adapter is damaged, or the package `peft` is missing.
    """
    peft = optional("peft")
    manifest = check_adapter(folder)
    with warnings.catch_warnings():  # peft asks transformers for an attribute under its old name
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        tuned = peft.PeftModel.from_pretrained(
            model.model.language_model, str(folder), is_trainable=False
        )
    model.model.language_model = tuned.merge_and_unload()
    layers = model.model.vision_tower.encoder.layer
    known = layers.state_dict()
    layers.load_state_dict(known | _named(_single(folder / "encoder.safetensors"), known))
    model.model.multi_modal_projector.load_state_dict(_single(folder / "projector.safetensors"))
    return manifest


def _named(
    weights: dict[str, torch.Tensor], known: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Name encoder weights as the installed transformers does; before 5.18 DINOv2's attention had its own names."""
    if weights.keys() <= known.keys():
        return weights
    for new, old in _OLD_NAMES.items():
        weights = {name.replace(new, old): value for name, value in weights.items()}
    return weights


def _single(path: Path) -> dict[str, torch.Tensor]:
    return {name: value.to(torch.float32) for name, value in load_file(path).items()}
