"""What a training step sees: scenes mostly, rows of scenes, clips, and drawn shapes, each from frozen features."""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scene_data
import torch
from align import GRID, covered
from easy_vqa import EasyVQA
from features import encode, pooled
from packing import GLIMPSE, Asked, Batch, Layout, Prompt, pack

from sparsight.scenes.ask import Turn
from sparsight.scenes.scene import Scene

HELD_OUT = 32  # last scenes, rows and clips, never trained on
_KINDS = ("scene", "several", "clip", "shapes")
_LIST_WEIGHT = 4.0  # of an answer that says many things
_FRAMES = 8


@dataclass(frozen=True)
class Work:
    """One batch: its visual features and its questions."""

    features: torch.Tensor  # (b * images, tokens, 384) float32
    layout: Layout
    batch: Batch


class Mixture:
    """Training and held-out batches; a step's batch depends on seed and step alone.

    Args:
        args: the command line.
        model: the embedded model, for its encoder.
        processor: its processor.
        folder: where features are kept.
    """

    def __init__(self, args: argparse.Namespace, model: Any, processor: Any, folder: Path) -> None:
        self._args = args
        self.prompt = Prompt.of(processor)
        self.scenes = encode(model, processor, scene_data.scene_pictures(args.scenes), folder)
        self.clips = encode(model, processor, scene_data.clip_pictures(args.clips), folder)
        source = EasyVQA(folder, "train")
        self._shapes = source.by_image()
        self.shapes = encode(model, processor, source.pictures(args.shapes), folder)

    def step(self, number: int, window: int) -> Work:
        """Returns the batch of a step."""
        rng = random.Random(f"{self._args.seed}-{number}")  # noqa: S311
        kind = rng.choices(_KINDS, self._args.mixture)[0] if window else "scene"
        return self.work(kind, self._numbers(kind, rng), window, rng)

    def _numbers(self, kind: str, rng: random.Random) -> list[list[int]]:
        """Draws the images of each row."""
        args = self._args
        if kind == "scene":
            return [[i] for i in rng.sample(range(args.scenes - HELD_OUT), args.batch)]
        if kind == "shapes":
            return [[i] for i in rng.sample(range(args.shapes), args.batch)]
        if kind == "clip":
            return [[i] for i in rng.sample(range(args.clips - HELD_OUT), max(2, args.batch // 2))]
        count = rng.choice((2, 3))
        return [rng.sample(range(args.scenes - HELD_OUT), count) for _ in range(max(2, args.batch // 2))]

    def work(self, kind: str, numbers: list[list[int]], window: int, rng: random.Random) -> Work:
        """Returns a batch of one kind about given images."""
        store = {"scene": self.scenes, "several": self.scenes, "clip": self.clips, "shapes": self.shapes}[kind]
        flat = [i for row in numbers for i in row]
        if kind == "clip":
            flat = [_FRAMES * i + frame for i in flat for frame in range(_FRAMES)]
        grid = round(store.shape[1] ** 0.5)
        features = torch.from_numpy(np.stack([store[i] for i in flat]).astype(np.float32))
        layout = Layout(len(flat) // len(numbers), grid, window)
        groups = [self._asked(kind, row, rng) for row in numbers]
        if window == 0:
            patches = torch.tensor([_glimpse(scene_data.scene(row[0]), rng) for row in numbers])
            chosen = features.gather(1, patches[..., None].expand(-1, -1, features.shape[2]))
            return Work(chosen, layout, pack(self.prompt, groups, layout, patches))
        return Work(pooled(features, window), layout, pack(self.prompt, groups, layout))

    def _asked(self, kind: str, row: list[int], rng: random.Random) -> list[Asked]:
        if kind == "shapes":
            found = [question for question in self._shapes[row[0]] if question.is_open]
            return [Asked(question.text, ((question.answer, True),), "shapes") for question in found]
        if kind == "clip":
            return [_asked(turn, "clip") for turn in scene_data.clip_turns(scene_data.clip(row[0]), rng)]
        scenes = [scene_data.scene(number) for number in row]
        if kind == "several":
            return [_asked(turn, "several") for turn in scene_data.image_turns(scenes, rng)]
        turns = scene_data.turns(scenes[0], rng)
        asked = [_asked(turn, kind) for kind, turn in rng.sample(turns, min(self._args.questions, len(turns)))]
        listed = [scene_data.facts(scenes[0], rng) for _ in range(self._args.facts)]
        return asked + [Asked(scene_data.FACTS, pieces, "facts", _LIST_WEIGHT) for pieces in listed if pieces]

    def held_out(self, window: int) -> list[Work]:
        """Returns batches of every kind about images that are never trained on."""
        rng = random.Random("held out")  # noqa: S311
        args, found = self._args, []
        scenes = list(range(args.scenes - HELD_OUT, args.scenes))
        clips = [[i] for i in range(args.clips - HELD_OUT, args.clips)]
        rows = {"scene": [[i] for i in scenes]}
        rows |= {} if window == 0 else {"clip": clips, "several": [rng.sample(scenes, 2) for _ in scenes]}
        for kind, of_kind in rows.items():
            size = 8 if kind == "scene" else 4
            for start in range(0, len(of_kind), size):
                found.append(self.work(kind, of_kind[start : start + size], window, rng))
        return found


def _glimpse(scene: Scene, rng: random.Random) -> list[int]:
    """Draws GLIMPSE patches in raster order: three of every thing and sign, the others of what is around them."""
    shown = [covered(box) for box in [item.box for item in scene.items] + [sign.box for sign in scene.signs]]
    chosen = {patch for patches in shown for patch in rng.sample(patches, min(3, len(patches)))}
    around = sorted(set(range(GRID**2)) - {patch for patches in shown for patch in patches})
    return sorted([*chosen, *rng.sample(around, GLIMPSE - len(chosen))])


def _asked(turn: Turn, kind: str) -> Asked:
    return Asked(turn.question, ((turn.answer, True),), kind, _LIST_WEIGHT if kind == "caption" else 1.0)
