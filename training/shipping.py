"""The adapter as it ships: packed into few bits, and the eye as the decoder will find it.

The eye is packed before the decoder is trained, so the decoder learns on exactly what ships.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from eye import FROZEN, Eye
from safetensors.torch import save_file
from student import SCALE, Student

from sparsight.models.embedded.adapter import (
    ADAPTER_FILES,
    FORMAT,
    MANIFEST_FILE,
    OLD_NAMES,
    read_tensors,
)
from sparsight.models.embedded.packed import GROUP, pack_codes
from sparsight.models.embedded.parts import LANGUAGE, VISION, sha256_of

EYE_FILE, DECODER_FILE = ADAPTER_FILES
_TRIED = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # scales of a group, in the one that fits all


def pack(value: torch.Tensor, bits: int) -> dict[str, torch.Tensor]:
    """Return a tensor as packed codes and the scale of every 64 values, whose error is least.

    Args:
        value: any shape; the number of values is a multiple of 64.
        bits: of a code, 2 to 8.
    """
    groups = value.detach().float().cpu().reshape(-1, GROUP)
    most = (2**bits - 1) / 2
    full = groups.abs().amax(1, keepdim=True).clamp_min(1e-12) / most
    best = torch.full_like(full, torch.inf)
    scales = full.clone()
    for share in _TRIED:
        tried = (full * share).to(torch.float16).float().clamp_min(6e-8)
        error = (_rounded(groups, tried, most) - groups).square().sum(1, keepdim=True)
        scales = torch.where(error < best, tried, scales)
        best = torch.minimum(error, best)
    codes = (_rounded(groups, scales, most) / scales + most).round().to(torch.uint8)
    packed = pack_codes(codes.reshape(-1).numpy(), bits)
    return {
        "codes": torch.from_numpy(packed),
        "scales": scales.reshape(-1).to(torch.float16),
        "shape": torch.tensor(value.shape, dtype=torch.int32),
    }


def _rounded(groups: torch.Tensor, scales: torch.Tensor, most: float) -> torch.Tensor:
    """Return the nearest values that codes can say: odd multiples of half a scale."""
    return ((groups / scales - 0.5).round() + 0.5).clamp(-most, most) * scales


class Shipped:
    """Writes the adapter's files.

    Args:
        folder: receives them.
        bits: of the codes of "encoder", "projector" and "decoder".
        base: the encoder layers' weights before the training.
    """

    def __init__(self, folder: Path, bits: dict[str, int], base: dict[str, torch.Tensor]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._bits = bits
        self._base = base

    def write_eye(self, eye: Eye) -> None:
        """Write the changes of the encoder layers and the projector."""
        tensors: dict[str, torch.Tensor] = {}
        for name, value in encoder(eye).items():
            tensors |= self._part(f"encoder.{name}", value.cpu() - self._base[name], "encoder")
        for name, value in folded(eye).items():
            tensors |= self._part(f"projector.{name}", value.cpu(), "projector")
        self._write(EYE_FILE, tensors)

    def write_decoder(self, lora: Mapping[str, torch.Tensor]) -> None:
        """Write the LoRA matrices."""
        tensors: dict[str, torch.Tensor] = {}
        for name, value in lora.items():
            tensors |= self._part(f"decoder.{name}", value, "decoder")
        self._write(DECODER_FILE, tensors)

    def _part(self, name: str, value: torch.Tensor, what: str) -> dict[str, torch.Tensor]:
        if value.ndim < 2:
            return {name: value.detach().to(torch.float16).contiguous()}
        return {f"{name}.{key}": part for key, part in pack(value, self._bits[what]).items()}

    def _write(self, name: str, tensors: dict[str, torch.Tensor]) -> None:
        partial = self.folder / f"{name}.partial"
        save_file(tensors, partial, metadata={"format": "pt"})
        partial.chmod(0o644)
        partial.replace(self.folder / name)

    def write_manifest(self, rank: int, training: dict[str, Any]) -> None:
        """Write the manifest over the files as they are now."""
        manifest = {
            "format": FORMAT,
            "files": {},
            "base": {part.name: part.sha256 for part in (VISION, LANGUAGE)},
            "rank": rank,
            "scale": SCALE,
            "bits": self._bits,
            "training": training,
            "accuracy": {},
        }
        write_manifest(self.folder, manifest)

    def show_eye(self, eye: Eye) -> None:
        """Give an eye the values that were written."""
        tensors = read_tensors(self.folder / EYE_FILE, self._bits)
        now = eye.layers.state_dict()
        names = {_new_name(name): name for name in now}
        with torch.no_grad():
            for name, change in _named_as(tensors, "encoder.").items():
                now[names[name]].copy_(self._base[name] + change)
            for name, value in _named_as(tensors, "projector.").items():
                eye.projector.state_dict()[name].copy_(value)
            eye.mean.zero_()
            eye.std.fill_(1.0)

    def show_decoder(self, student: Student) -> None:
        """Give a student the LoRA matrices that were written."""
        tensors = read_tensors(self.folder / DECODER_FILE, self._bits)
        with torch.no_grad():
            for name, value in student.lora().items():
                value.copy_(tensors[f"decoder.{name}"])


def _named_as(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest with the hashes of the files as they are now."""
    manifest["files"] = {name: sha256_of(folder / name) for name in ADAPTER_FILES}
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _new_name(name: str) -> str:
    """Return an encoder weight's name since transformers 5.18; the layer counts from FROZEN on."""
    for new, old in OLD_NAMES.items():
        name = name.replace(old, new)
    number, _, rest = name.partition(".")
    return f"{int(number) + FROZEN}.{rest}"


def encoder(eye: Eye) -> dict[str, torch.Tensor]:
    """Return copies of the trained encoder layers' weights, on the CPU, by name and layer."""
    state = eye.layers.state_dict()
    return {_new_name(name): value.detach().cpu().clone() for name, value in state.items()}


def folded(eye: Eye) -> dict[str, torch.Tensor]:
    """Return the projector with the standardisation of its input folded into the first layer."""
    weights = {name: value.detach().clone() for name, value in eye.projector.state_dict().items()}
    scaled = weights["linear_1.weight"] / eye.std  # (D, 384)
    weights["linear_1.bias"] -= scaled @ eye.mean
    return weights | {"linear_1.weight": scaled}


def halves(tensors: Mapping[str, torch.Tensor], folder: Path, name: str, parts: int) -> None:
    """Write tensors in float16, divided over files of about equal size."""
    half = {key: value.detach().to("cpu", torch.float16) for key, value in tensors.items()}
    sizes = np.cumsum([value.numel() for value in half.values()])
    places = np.minimum((sizes - 1) * parts // sizes[-1], parts - 1)
    for part in range(parts):
        chosen = {
            k: v.contiguous() for (k, v), at in zip(half.items(), places, strict=True) if at == part
        }
        save_file(chosen, folder / f"{name}_{part}.safetensors", metadata={"format": "pt"})
