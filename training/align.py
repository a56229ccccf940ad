"""The first stage: the encoder's last layers and the projector learn to say what each patch shows (`targets.py`).

The decoder is not run, so a step costs a tenth of a step of the second stage, and the decoder then
starts from visual tokens that already mean something in its own space.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scene_data
import torch
from easy_vqa import EasyVQA
from features import Eye
from rich.progress import track
from targets import GRID, Dictionary, labels, shape_labels
from torch import nn

HELD_OUT = 64  # last scenes, never trained on
_BATCH = 8  # scenes, or twice as many frames
_SHARES = (0.82, 0.08, 0.10)  # of steps on scenes, clips, shapes
_IDLE = 0.25  # share of background patches that count
_CE = 0.2  # weight of naming beside the distance
_SCALE = 12.0  # largest difference of two logits, roughly
_RATES = (3e-4, 1.5e-3)  # encoder layers, projector


@dataclass(frozen=True)
class Source:
    """Stored states and what their patches show: (count, 1 + g^2, 384), and twice (count, g^2)."""

    states: np.ndarray
    names: np.ndarray
    paints: np.ndarray


def sources(
    scenes: np.ndarray, clips: np.ndarray, shapes: np.ndarray, drawn: EasyVQA
) -> list[Source]:
    """Labels everything that is encoded."""
    of_scenes = [labels(scene_data.scene(i)) for i in track(range(len(scenes)), "label")]
    frames = [frame for i in range(len(clips) // 8) for frame in scene_data.clip(i).frames]
    of_frames = [labels(frame, GRID // 2) for frame in frames]
    found = [Source(scenes, *map(np.stack, zip(*of_scenes, strict=True)))]
    found.append(Source(clips, *map(np.stack, zip(*of_frames, strict=True))))
    return [*found, Source(shapes, *shape_labels(drawn, len(shapes)))]


def batch(source: Source, numbers: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns states, names and colours of pictures."""
    states = torch.from_numpy(np.stack([source.states[i] for i in numbers]).astype(np.float32))
    return (
        states,
        torch.from_numpy(source.names[numbers]).long(),
        torch.from_numpy(source.paints[numbers]).long(),
    )


def naming(
    eye: Eye, words: Dictionary, given: Source, numbers: list[int]
) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Returns the loss of some pictures and, for patches that show a thing, whether name and colour are right."""
    states, names, paints = batch(given, numbers)
    tokens = eye(states)  # (b, g^2, D)
    far = (tokens - words.meant(names, paints)).square().sum(-1) / words.length**2
    shown = (names > 0) | (paints > 0)
    counts = shown | (torch.rand(shown.shape) < _IDLE)
    loss, right = far[counts].mean(), []
    for known, true in ((words.names, names), (words.paints, paints)):
        logits = tokens[counts] @ known.directions.T * (_SCALE / words.length)
        loss = loss + _CE * nn.functional.cross_entropy(logits, true[counts])
        right.append((logits.argmax(-1) == true[counts])[shown[counts]].float().mean())
    return loss, far[counts].mean(), right


def align(
    eye: Eye, words: Dictionary, given: list[Source], *, steps: int, seed: int, log: Path
) -> dict[str, float]:
    """Trains encoder layers and projector; returns the shares of held-out patches named and coloured rightly."""
    dice = np.random.default_rng(seed)
    groups = [list(eye.layers.parameters()), list(eye.projector.parameters())]
    rates = [{"params": group, "lr": rate} for group, rate in zip(groups, _RATES, strict=True)]
    optimizer = torch.optim.AdamW(rates, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, list(_RATES), total_steps=steps, pct_start=0.1
    )
    began, last = time.monotonic(), {}
    with log.open("w") as lines:
        for step in track(range(1, steps + 1), "align"):
            source = given[dice.choice(3, p=_SHARES)]
            free = len(source.names) - (HELD_OUT if source is given[0] else 0)
            size = _BATCH if source.names.shape[1] == GRID**2 else 2 * _BATCH
            numbers = dice.choice(free, size, replace=False)
            loss, far, right = naming(eye, words, source, sorted(numbers.tolist()))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_([value for group in groups for value in group], 1.0)
            optimizer.step()
            schedule.step()
            if step % 100 == 0 or step == steps:
                last = held_out(eye, words, given[0])
                row = {"step": step, "far": far.item(), "trained": right[0].item(), **last}
                lines.write(
                    json.dumps(row | {"seconds": round(time.monotonic() - began, 1)}) + "\n"
                )
                lines.flush()
    return last


@torch.inference_mode()
def held_out(eye: Eye, words: Dictionary, scenes: Source) -> dict[str, float]:
    """Returns the shares of patches that show a thing and are named and coloured rightly, and their distance."""
    last = len(scenes.names)
    rows = [
        naming(eye, words, scenes, list(range(a, a + 8))) for a in range(last - HELD_OUT, last, 8)
    ]
    means = np.mean(
        [[float(name), float(paint), float(far)] for _, far, (name, paint) in rows], axis=0
    ).tolist()
    return {
        what: round(mean, 4)
        for what, mean in zip(("name", "colour", "distance"), means, strict=True)
    }
