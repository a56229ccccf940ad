"""Checkpoints of a training run, and the export of a finished adapter: safetensors and JSON only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from features import FROZEN, Eye
from safetensors.torch import load_file, save_file

from sparsight.models.embedded.adapter import ADAPTER_FILES, MANIFEST_FILE
from sparsight.models.embedded.parts import LANGUAGE, VISION, sha256_of

_TENSORS = "checkpoint.safetensors"
_STATE = "checkpoint.json"


def _trainable(student: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: value for name, value in student.named_parameters() if value.requires_grad}


def save(
    folder: Path,
    student: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    """Writes the trained values and both AdamW moments, each file in one move."""
    tensors: dict[str, torch.Tensor] = {}
    for name, value in _trainable(student).items():
        state = optimizer.state[value]
        tensors |= {
            f"value.{name}": value.detach(),
            f"m.{name}": state["exp_avg"],
            f"v.{name}": state["exp_avg_sq"],
        }
    save_file(tensors, folder / f"{_TENSORS}.new")
    (folder / f"{_TENSORS}.new").replace(folder / _TENSORS)
    (folder / _STATE).write_text(json.dumps({"step": step, "seconds": seconds}), encoding="utf-8")


def restore(
    folder: Path, student: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    """Reads a checkpoint back and returns its step and the seconds spent."""
    tensors = load_file(folder / _TENSORS)
    state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    for name, value in _trainable(student).items():
        value.data.copy_(tensors[f"value.{name}"])
        moments = {"exp_avg": tensors[f"m.{name}"], "exp_avg_sq": tensors[f"v.{name}"]}
        optimizer.state[value] = moments | {"step": torch.tensor(float(state["step"]))}
    return state["step"], state["seconds"]


class Exporter:
    """Writes a trained student as the adapter that the library ships.

    Args:
        folder: receives the adapter.
        rank: rank of the LoRA matrices.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder = folder
        self._rank = rank

    def export(self, eye: Eye, decoder: Any, training: dict[str, Any]) -> None:
        """Writes LoRA, encoder layers, projector, configuration and manifest, tensors in float16."""
        self._folder.mkdir(parents=True, exist_ok=True)
        decoder.save_pretrained(self._folder, save_embedding_layers=False)
        (self._folder / "README.md").unlink(missing_ok=True)
        self._neutral_config()
        weights = load_file(self._folder / "adapter_model.safetensors")
        save_file(
            _half(weights), self._folder / "adapter_model.safetensors", metadata={"format": "pt"}
        )
        layers = dict(enumerate(eye.layers, FROZEN))
        encoder = {
            f"{i}.{name}": value
            for i, layer in layers.items()
            for name, value in layer.state_dict().items()
        }
        save_file(_half(encoder), self._folder / "encoder.safetensors", metadata={"format": "pt"})
        save_file(
            _half(folded(eye)), self._folder / "projector.safetensors", metadata={"format": "pt"}
        )
        for path in self._folder.iterdir():
            path.chmod(0o644)
        write_manifest(self._folder, self._rank, training, {})

    def _neutral_config(self) -> None:
        """Names the base model by its parts, not by a path."""
        path = self._folder / "adapter_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config |= {
            "base_model_name_or_path": "sparsight-embedded",
            "target_modules": sorted(config["target_modules"]),
        }
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def folded(eye: Eye) -> dict[str, torch.Tensor]:
    """Returns the projector with the standardisation of its input folded into the first layer."""
    weights = {name: value.detach().clone() for name, value in eye.projector.state_dict().items()}
    scaled = weights["linear_1.weight"] / eye.std  # (576, 384)
    weights["linear_1.bias"] -= scaled @ eye.mean
    return weights | {"linear_1.weight": scaled}


def write_manifest(
    folder: Path, rank: int, training: dict[str, Any], accuracy: dict[str, float]
) -> None:
    """Writes the manifest over the files as they are now."""
    manifest = {
        "files": {name: sha256_of(folder / name) for name in ADAPTER_FILES},
        "base": {part.name: part.sha256 for part in (VISION, LANGUAGE)},
        "rank": rank,
        "training": training,
        "accuracy": accuracy,
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _half(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.to(torch.float16).contiguous() for name, value in tensors.items()}
