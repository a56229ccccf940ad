"""What a training step sees: scenes mostly, rows of scenes, clips, and drawn shapes, from visual tokens made before.

A step shows some patches of each image, at the positions they have at inference: early steps a few
of every thing, the last steps all.
"""

from __future__ import annotations

import argparse
import functools
import random
from dataclasses import dataclass

import numpy as np
import scene_data
import torch
from easy_vqa import EasyVQA
from packing import Asked, Batch, Layout, Prompt, pack
from targets import GRID, labels

from sparsight.evaluate.scenes.ask import Turn

HELD_OUT = 32  # last scenes, rows and clips, never trained on
_KINDS = ("scene", "several", "clip", "shapes")
_LIST_WEIGHT = 4.0  # of an answer that says many things
_LATER_WEIGHT = 2.0  # of two answers
_FRAMES = 8
_TEXT = 200  # tokens of a row's questions, roughly
_OF_FRAME = 4  # a frame has a quarter of an image's patches


@dataclass(frozen=True)
class Tokens:
    """Visual tokens of everything, each (pictures, patches, D) float16."""

    scenes: np.ndarray
    clips: np.ndarray
    shapes: np.ndarray


@dataclass(frozen=True)
class Work:
    """One batch: its visual tokens, (b * images, seen, D) float32, and its questions."""

    tokens: torch.Tensor
    layout: Layout
    batch: Batch


class Mixture:
    """Training and held-out batches; a step's batch depends on seed and step alone.

    Args:
        args: the command line.
        prompt: the chat template.
        tokens: what the pictures look like to the decoder.
        shapes: the drawn images' questions.
    """

    def __init__(
        self, args: argparse.Namespace, prompt: Prompt, tokens: Tokens, shapes: EasyVQA
    ) -> None:
        self._args = args
        self.prompt = prompt
        self._stores = {
            "scene": tokens.scenes,
            "several": tokens.scenes,
            "clip": tokens.clips,
            "shapes": tokens.shapes,
        }
        self._shapes = shapes.by_image()

    def step(self, number: int, seen: int) -> Work:
        """Returns the batch of a step that shows `seen` patches of an image."""
        rng = random.Random(f"{self._args.seed}-{number}")  # noqa: S311
        kind = rng.choices(_KINDS, self._args.mixture)[0]
        rows = max(4, self._args.batch * _TEXT // (_TEXT + seen))
        return self.work(kind, self._numbers(kind, rng, rows), seen, rng)

    def _numbers(self, kind: str, rng: random.Random, rows: int) -> list[list[int]]:
        """Draws the images of each row."""
        scenes = range(len(self._stores["scene"]) - HELD_OUT)
        if kind == "scene":
            return [[i] for i in rng.sample(scenes, rows)]
        if kind == "shapes":
            return [[i] for i in rng.sample(range(len(self._stores["shapes"])), rows)]
        if kind == "clip":
            return [
                [i]
                for i in rng.sample(
                    range(len(self._stores["clip"]) // _FRAMES - HELD_OUT), max(2, rows // 2)
                )
            ]
        count = rng.choice((2, 3))
        return [rng.sample(scenes, count) for _ in range(max(2, rows // 2))]

    def work(self, kind: str, rows: list[list[int]], seen: int, rng: random.Random) -> Work:
        """Returns a batch of one kind about given images."""
        store = self._stores[kind]
        flat = [i for row in rows for i in row]
        if kind == "clip":
            flat, seen = (
                [_FRAMES * i + frame for i in flat for frame in range(_FRAMES)],
                seen // _OF_FRAME,
            )
        layout = Layout(len(flat) // len(rows), store.shape[1], min(seen, store.shape[1]))
        chosen = torch.from_numpy(np.stack([self._glimpse(kind, i, layout, rng) for i in flat]))
        tokens = np.stack(
            [store[i][patches] for i, patches in zip(flat, chosen.numpy(), strict=True)]
        )
        batch = pack(self.prompt, [self._asked(kind, row, rng) for row in rows], layout, chosen)
        return Work(torch.from_numpy(tokens.astype(np.float32)), layout, batch)

    def _glimpse(self, kind: str, number: int, layout: Layout, rng: random.Random) -> np.ndarray:
        """Draws patches in raster order: as many of every thing, which take half of them at most, and any others."""
        if layout.seen == layout.patches:
            return np.arange(layout.patches)
        things = self._things(kind, number)
        most = max(2, layout.seen // 2 // max(1, len(things)))
        chosen = {
            patch for patches in things for patch in rng.sample(patches, min(most, len(patches)))
        }
        others = [patch for patch in range(layout.patches) if patch not in chosen]
        return np.array(sorted([*chosen, *rng.sample(others, layout.seen - len(chosen))]))

    @staticmethod
    @functools.cache
    def _things(kind: str, number: int) -> list[list[int]]:
        """Returns the patches of each thing; of drawn shapes, which have no scene, those of the middle."""
        if kind == "shapes":
            return []
        clip = kind == "clip"
        scene = (
            scene_data.clip(number // _FRAMES).frames[number % _FRAMES]
            if clip
            else scene_data.scene(number)
        )
        names, paints = labels(scene, GRID // 2 if clip else GRID)
        both = names.astype(int) * 100 + paints
        return [np.flatnonzero(both == thing).tolist() for thing in np.unique(both[both > 0])]

    def _asked(self, kind: str, row: list[int], rng: random.Random) -> list[Asked]:
        if kind == "shapes":
            found = [question for question in self._shapes[row[0]] if question.is_open]
            return [
                Asked(question.text, ((question.answer, True),), "shapes") for question in found
            ]
        if kind == "clip":
            return [
                _asked(turn, "clip") for turn in scene_data.clip_turns(scene_data.clip(row[0]), rng)
            ]
        scenes = [scene_data.scene(number) for number in row]
        if kind == "several":
            return [_asked(turn, "several") for turn in scene_data.image_turns(scenes, rng)]
        turns = scene_data.turns(scenes[0], rng)
        asked = [
            _asked(turn, kind)
            for kind, turn in rng.sample(turns, min(self._args.questions, len(turns)))
        ]
        if len(turns) > 1:
            said = [(turn.question, turn.answer) for _, turn in rng.sample(turns, 2)]
            asked.append(Asked(*self.prompt.conversation(said), "later", _LATER_WEIGHT))
        tables = scene_data.facts(scenes[0], rng), scene_data.neighbours(scenes[0], rng)
        return asked + [
            Asked(scene_data.FACTS, table, "facts", _LIST_WEIGHT) for table in tables if table
        ]

    def held_out(self, seen: int) -> list[Work]:
        """Returns batches of every kind about images that are never trained on."""
        rng = random.Random("held out")  # noqa: S311
        last, found = len(self._stores["scene"]), []
        scenes = list(range(last - HELD_OUT, last))
        clips = len(self._stores["clip"]) // _FRAMES
        rows = {
            "scene": [[i] for i in scenes],
            "clip": [[i] for i in range(clips - HELD_OUT // 2, clips)],
        }
        rows["several"] = [rng.sample(scenes, 2) for _ in scenes[::2]]
        for kind, of_kind in rows.items():
            size = 8 if kind == "scene" else 4
            for start in range(0, len(of_kind), size):
                found.append(self.work(kind, of_kind[start : start + size], seen, rng))
        return found


def _asked(turn: Turn, kind: str) -> Asked:
    return Asked(
        turn.question, ((turn.answer, True),), kind, _LIST_WEIGHT if kind == "caption" else 1.0
    )
