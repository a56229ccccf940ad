"""The shipped adapter: changes of encoder and decoder, and the projector, checked before use.

Knows the adapter's files and how they are applied; knows nothing about where the base model comes
from. Only safetensors and JSON are read, never pickle.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from sparsight.errors import EmbeddedModelError
from sparsight.models.embedded.packed import unpack
from sparsight.models.embedded.parts import sha256_of

ADAPTER_DIR = Path(__file__).parent / "adapter"
EYE_FILE = "eye.safetensors"  # changes of encoder layers, and the projector
# pairs of thin matrices; their products are the changes of the decoder's weights
DECODER_FILE = "decoder.safetensors"
ADAPTER_FILES = (EYE_FILE, DECODER_FILE)
MANIFEST_FILE = "manifest.json"
FORMAT = 2  # raise it when the files' content changes
OLD_NAMES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}


@dataclass(frozen=True)
class Manifest:
    """What is known about the adapter.

    Args:
        format: FORMAT, of the files' content.
        files: SHA-256 of each file, by name.
        base: SHA-256 of each wheel that the base model is made of, by distribution name.
        rank: rank of the LoRA matrices.
        scale: factor of the products of LoRA matrices.
        bits: of the packed codes of "encoder", "projector" and "decoder".
        training: what the training did: steps, examples, time.
        accuracy: exact-match accuracies on the test split, each in [0, 1].
    """

    format: int
    files: dict[str, str]
    base: dict[str, str]
    rank: int
    scale: float
    bits: dict[str, int]
    training: dict[str, Any]
    accuracy: dict[str, float]


def read_manifest(folder: Path = ADAPTER_DIR) -> Manifest:
    """Return the manifest beside an adapter.

    Raises:
        EmbeddedModelError: it is missing, not a manifest, or of an adapter of another format.
    """
    path = folder / MANIFEST_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        written = content.get("format", 1) if "rank" in content else FORMAT
        if written != FORMAT:
            raise EmbeddedModelError(
                f"the adapter in {folder} has format {written}, but this sparsight reads format "
                f"{FORMAT}; give an adapter that this version's training wrote, or reinstall "
                "sparsight."
            )
        return Manifest(**content)
    except FileNotFoundError as error:
        raise EmbeddedModelError(
            f"the adapter folder {folder} holds no {MANIFEST_FILE}; reinstall sparsight."
        ) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise EmbeddedModelError(
            f"{path} is not an adapter manifest ({error}); reinstall sparsight."
        ) from error


def check_adapter(folder: Path = ADAPTER_DIR) -> Manifest:
    """Compare every file of an adapter with its manifest and return the manifest.

    Raises:
        EmbeddedModelError: a file is missing, unlisted in the manifest or altered, or the format is
            another one.
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
                f"{name} is damaged: SHA-256 {found}, but the manifest says {wanted}; reinstall "
                "sparsight."
            )
    return manifest


def apply_adapter(model: LlavaForConditionalGeneration, folder: Path = ADAPTER_DIR) -> Manifest:
    """Merge the checked adapter into a base model, in place, and return the adapter's manifest.

    Args:
        model: the base model in float32.
        folder: the adapter's folder.

    Raises:
        EmbeddedModelError: the adapter is damaged or of another format.
    """
    manifest = check_adapter(folder)
    with torch.no_grad():
        _merge_eye(model, read_tensors(folder / EYE_FILE, manifest.bits))
        decoder = read_tensors(folder / DECODER_FILE, manifest.bits)
        layers: Any = model.model.language_model.layers
        for name in {name.rpartition(".")[0] for name in decoder}:
            change = decoder[f"{name}.b"] @ decoder[f"{name}.a"]  # (out, rank) @ (rank, in)
            layers.get_submodule(name.removeprefix("decoder.")).weight += manifest.scale * change
    return manifest


def _merge_eye(model: LlavaForConditionalGeneration, tensors: dict[str, torch.Tensor]) -> None:
    """Add the changes to the encoder's layers and give the projector its weights."""
    encoder = {k.removeprefix("encoder."): v for k, v in tensors.items() if k[0] == "e"}
    projector = {k.removeprefix("projector."): v for k, v in tensors.items() if k[0] == "p"}
    tower: Any = model.model.vision_tower
    known = tower.encoder.layer.state_dict()
    for name, change in _named(encoder, known).items():
        known[name] += change
    model.model.multi_modal_projector.load_state_dict(projector)


def read_tensors(path: Path, bits: dict[str, int]) -> dict[str, torch.Tensor]:
    """Return an adapter file's tensors in float32, by name.

    Args:
        path: the file; a tensor lies in it as float16, or packed as `codes`, `scales` and `shape`.
        bits: of packed codes, by the first part of a name.
    """
    stored = load_file(path)
    tensors: dict[str, torch.Tensor] = {}
    for key, value in stored.items():
        name, _, part = key.rpartition(".")
        if part == "codes":
            shape = tuple(stored[f"{name}.shape"].tolist())
            width = bits[name.partition(".")[0]]
            tensors[name] = unpack(value, stored[f"{name}.scales"], shape, width)
        elif part not in ("scales", "shape"):
            tensors[key] = value.to(torch.float32)
    return tensors


def _named(
    weights: dict[str, torch.Tensor], known: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Name encoder weights as the installed transformers does.

    Before 5.18 DINOv2's attention had its own names.
    """
    if weights.keys() <= known.keys():
        return weights
    for new, old in OLD_NAMES.items():
        weights = {name.replace(new, old): value for name, value in weights.items()}
    return weights
