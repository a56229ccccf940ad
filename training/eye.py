"""The first stage: encoder layers and projector learn to say what each patch shows (`targets.py`).

The decoder is not run, and then starts from visual tokens that mean something in its own space.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from labels import CLOSED, LEFT, NAME, NAMES, PAINT, RIGHT, SECOND, VOCABULARY, WORD
from recipes import CLIP, ONE, Row, Shape
from stage import Clock, Log, Machine, Progress, adam, restore
from supply import Supply
from targets import SECOND_WEIGHT, Dictionary
from torch import nn
from torch.nn import functional
from trainer import Trainer

FROZEN = 3  # of the encoder's twelve layers; the others up to the penultimate are trained
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_IDLE = 0.2  # weight of a patch that shows nothing
_SCALE = 12.0  # largest difference of two logits, roughly
# weights beside the distance
_NAMING, _PAINTING = 0.5, 0.15
_HALVES, _WORDS = 0.4, 0.1
_RATES = (3e-4, 1e-3, 3e-3)  # encoder layers, projector, helper heads
_SINGLES = 0.93  # share of steps on whole images; the others are on frames of clips
_MEASURE_S = 90.0


class Eye(nn.Module):
    """The encoder up to its penultimate layer, and the projector.

    Args:
        model: the embedded model; its modules are shared, not copied.
        machine: where it computes.
    """

    mean: torch.Tensor
    std: torch.Tensor
    colour_mean: torch.Tensor
    colour_std: torch.Tensor

    def __init__(self, model: Any, machine: Machine) -> None:
        super().__init__()
        tower = model.model.vision_tower
        self._tower = [tower]  # in a list: its frozen part is no state of this module
        self._machine = machine
        self.width: int = tower.config.hidden_size
        self.layers = tower.encoder.layer[FROZEN:-1]
        self.projector = model.model.multi_modal_projector
        for name in ("mean", "std"):
            self.register_buffer(name, torch.full((self.width,), float(name == "std")))
        self.register_buffer("colour_mean", 255 * torch.tensor(_MEAN), persistent=False)
        self.register_buffer("colour_std", 255 * torch.tensor(_STD), persistent=False)

    def standardise(self, images: torch.Tensor) -> None:
        """Set the scale of the projector's input by some images, (b, px, px, 3) uint8."""
        with torch.no_grad():
            features = self.features(images).flatten(0, 1).float()
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0) + 1e-6)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features of patches, (b, patches, width), of images (b, px, px, 3) uint8."""
        tower = self._tower[0]
        with self._machine.autocast():
            with torch.no_grad():
                pixels = (images.float() - self.colour_mean) / self.colour_std
                states = tower.embeddings(pixels.permute(0, 3, 1, 2).contiguous())
                for layer in tower.encoder.layer[:FROZEN]:
                    states = layer(states)
            for layer in self.layers:
                states = layer(states)
        features: torch.Tensor = states[:, 1:]
        return features

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Return the visual tokens, (b, patches, D) float32, of features."""
        with self._machine.autocast():
            tokens: torch.Tensor = self.projector((features.float() - self.mean) / self.std)
        return tokens.float()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the visual tokens, (b, patches, D) float32, of images, (b, px, px, 3) uint8."""
        return self.project(self.features(images))


class Heads(nn.Module):
    """Helpers that read halves of patches and whole words; thrown away after the stage.

    Args:
        width: of the encoder.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.left = nn.Linear(width, len(VOCABULARY))
        self.right = nn.Linear(width, len(VOCABULARY))
        self.word = nn.Linear(width, len(CLOSED) + 1)


@dataclass(frozen=True)
class Pictures:
    """Some images and what their patches show.

    Args:
        images: (b, px, px, 3) uint8.
        labels: (b, patches, 6) int64.
    """

    images: torch.Tensor
    labels: torch.Tensor


def pictures(rows: list[Row], machine: Machine, most: int | None = None) -> Pictures:
    """Return the images of rows as tensors, `most` of them."""
    images = np.concatenate([row.images for row in rows])[:most]
    labels = np.concatenate([row.labels for row in rows])[:most].astype(np.int64)
    return Pictures(
        machine.pinned(torch.from_numpy(images)), machine.pinned(torch.from_numpy(labels))
    )


class Teacher:
    """The loss of the first stage.

    Args:
        eye: what learns.
        heads: its helpers.
        words: what visual tokens can stand for.
    """

    def __init__(self, eye: Eye, heads: Heads, words: Dictionary) -> None:
        self._eye = eye
        self._heads = heads
        self._words = words

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the loss and its parts."""
        features = self._eye.features(images)
        tokens = self._eye.project(features)
        words, scale = self._words, _SCALE / self._words.length
        far = (tokens - words.meant(labels)).square().sum(-1) / words.length**2
        shown = (labels[..., NAME] > 0) | (labels[..., PAINT] > 0)
        weights = torch.where(shown, 1.0, _IDLE)
        weights = weights / weights.sum()
        names = tokens @ words.names.directions.T * scale
        second = labels[..., SECOND]
        part = torch.where(second > 0, SECOND_WEIGHT / (1 + SECOND_WEIGHT), 0.0)
        naming = (1 - part) * _cross(names, labels[..., NAME]) + part * _cross(names, second)
        paints = _cross(tokens @ words.paints.directions.T * scale, labels[..., PAINT])
        scaled = (features.float() - self._eye.mean) / self._eye.std
        left = _cross(self._heads.left(scaled), labels[..., LEFT])
        right = _cross(self._heads.right(scaled), labels[..., RIGHT])
        word = _cross(self._heads.word(scaled), labels[..., WORD])
        parts = {
            "far": far,
            "naming": naming,
            "painting": paints,
            "halves": left + right,
            "words": word,
        }
        means = {name: (value * weights).sum() for name, value in parts.items()}
        loss = means["far"] + _NAMING * means["naming"] + _PAINTING * means["painting"]
        return {"loss": loss + _HALVES * means["halves"] + _WORDS * means["words"], **means}

    @torch.inference_mode()
    def right(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, tuple[float, float]]:
        """Return how many patches are named rightly, and how many there are, by what they show."""
        tokens = self._eye(images)
        named = (tokens @ self._words.names.directions.T).argmax(-1)
        painted = (tokens @ self._words.paints.directions.T).argmax(-1)
        names = labels[..., NAME]
        things, characters = (names > 0) & (names < len(NAMES)), names >= len(NAMES)
        coloured = labels[..., PAINT] > 0
        rows = {
            "things": (named == names, things),
            "characters": (named == names, characters),
            "colours": (painted == labels[..., PAINT], coloured),
        }
        return {
            what: (float((hit & where).sum()), float(where.sum()))
            for what, (hit, where) in rows.items()
        }


def _cross(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of each patch, shaped like the targets."""
    flat = functional.cross_entropy(
        logits.float().flatten(0, -2), targets.flatten(), reduction="none"
    )
    return flat.view(targets.shape)


def measure(
    teacher: Teacher, held_out: dict[str, tuple[Shape, list[Row]]], machine: Machine
) -> dict[str, dict[str, float]]:
    """Return shares of held-out patches that are named rightly, by recipe and by what they show."""
    found: dict[str, dict[str, float]] = {}
    for name, (_, rows) in sorted(held_out.items()):
        batch = pictures(rows, machine, most=48)
        sums: dict[str, list[float]] = {}
        for at in range(0, len(batch.images), 16):
            images = machine.moved(batch.images[at : at + 16])
            labels = machine.moved(batch.labels[at : at + 16])
            for what, (hit, count) in teacher.right(images, labels).items():
                both = sums.setdefault(what, [0.0, 0.0])
                both[0], both[1] = both[0] + hit, both[1] + count
        found[name] = {
            what: round(hit / count, 4) for what, (hit, count) in sums.items() if count >= 20
        }
    return found


@dataclass(frozen=True)
class EyePlan:
    """How long and how much at once the first stage trains.

    Args:
        minutes: time budget.
        batch: images per step.
        steps: at most; None for no limit.
        seed: of the draws.
    """

    minutes: float
    batch: int
    steps: int | None
    seed: int


def train_eye(
    eye: Eye, words: Dictionary, supply: Supply, machine: Machine, *, plan: EyePlan, out: Path
) -> Progress:
    """Train encoder layers and projector, with log and checkpoints; return what was done."""
    torch.manual_seed(plan.seed)
    heads = Heads(eye.width).to(machine.device)
    eye.requires_grad_(True)
    groups = [list(module.parameters()) for module in (eye.layers, eye.projector, heads)]
    optimizer = adam(list(zip(groups, _RATES, strict=True)), 0.01)
    helpers = {f"heads.{name}": value for name, value in heads.named_parameters()}
    values = dict(eye.state_dict(keep_vars=True)) | helpers
    progress = restore(out / "eye.safetensors", values, optimizer)
    if not progress.step:
        eye.standardise(machine.moved(pictures(supply.take(ONE, 16), machine).images))
    teacher, log = Teacher(eye, heads, words), Log(out / "log.jsonl", "eye")

    def make(step: int) -> Pictures:
        rng = random.Random(f"{plan.seed}/eye/{step}")  # noqa: S311
        if rng.random() < _SINGLES:
            return pictures(supply.take(ONE, plan.batch), machine)
        rows = supply.take(CLIP, max(1, plan.batch // 2))
        return pictures(rows, machine, most=4 * plan.batch)

    def losses(batch: Pictures) -> dict[str, torch.Tensor]:
        return teacher.loss(machine.moved(batch.images), machine.moved(batch.labels))

    def reached() -> dict[str, Any]:
        return measure(teacher, supply.held_out, machine)

    Trainer(
        log=log,
        path=out / "eye.safetensors",
        values=values,
        optimizer=optimizer,
        clock=Clock(plan.minutes, progress.seconds, plan.steps),
        progress=progress,
        losses=losses,
        measure=reached,
        measure_s=_MEASURE_S,
        supply=supply,
    ).run(make)
    log.write({"step": progress.step, "seconds": round(progress.seconds, 1), "held_out": reached()})
    eye.requires_grad_(False)
    return progress
