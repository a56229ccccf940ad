"""What is drawn: kinds of training rows, each from a number, with labels and tokens.

A row is one image, several, or the frames of a clip, with all questions on it. Runs in the
processes that draw; knows no training.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from dense import compose_dense, dense_labels, draw_dense, font_files, read_all, read_plate
from easy_vqa import EasyVQA
from labels import CLOSED, GRID, scene_labels, shape_labels
from packing import Asked, Prompt, Told
from PIL import Image
from scene_data import (
    FACTS,
    clip_questions,
    first_questions,
    image_questions,
    second_questions,
)

from sparsight.evaluate.scenes.compose import compose, compose_clip
from sparsight.evaluate.scenes.compose_small import compose2, compose_clip2
from sparsight.evaluate.scenes.render import render, render_clip
from sparsight.evaluate.scenes.scene import SIZE, Pool

SEED = "train-2"
Shape = tuple[int, int]  # images in a row, px of both sides of each


@dataclass(frozen=True)
class Row:
    """One training row.

    Args:
        images: (k, px, px, 3) uint8.
        labels: (k, patches, 6) int16.
        told: its questions.
    """

    images: np.ndarray
    labels: np.ndarray
    told: Told


@dataclass(frozen=True)
class Source:
    """Where rows are drawn from.

    Args:
        prompt: writes questions as tokens.
        shapes: easy-VQA's training split, or its test split for held-out rows.
        fonts: font files beside Pillow's own font.
    """

    prompt: Prompt
    shapes: EasyVQA
    fonts: tuple[str, ...]

    @classmethod
    def of(cls, prompt: Prompt, folder: Path, split: str, fonts: Path | None) -> Source:
        """Return a source whose easy-VQA wheel is in a folder."""
        return cls(prompt, EasyVQA(folder, split), font_files(fonts))

    def row(self, images: list[Image.Image], labels: list[np.ndarray], asked: list[Asked]) -> Row:
        """Return a row of pictures and what is asked about them."""
        told = Told([self.prompt.encode(one) for one in asked])
        pixels = np.stack([np.asarray(image, np.uint8) for image in images])
        return Row(pixels, np.stack(labels), told)


Recipe = Callable[[Source, str, Pool], Row]


def _first(source: Source, seed: str, pool: Pool) -> Row:
    scene, rng = compose(seed, pool), random.Random(f"{seed}/asked")  # noqa: S311
    asked = first_questions(scene, rng, source.prompt)
    return source.row([render(scene)], [scene_labels(scene)], asked)


def _second(kind: str, source: Source, seed: str, pool: Pool) -> Row:
    scene = compose2(seed, pool, kind)  # type: ignore[arg-type]
    asked = second_questions(scene, random.Random(f"{seed}/asked"), source.prompt, kind)  # noqa: S311
    return source.row([render(scene)], [scene_labels(scene)], asked)


def _dense(source: Source, seed: str, pool: Pool) -> Row:
    dense = compose_dense(seed, pool, CLOSED, source.fonts)
    rng = random.Random(f"{seed}/asked")  # noqa: S311
    read = {turn.question: turn for _ in range(4) if (turn := read_plate(dense, rng))}
    asked = second_questions(dense.scene, rng, source.prompt, "dense", list(read.values()))
    table = read_all(dense, rng)
    asked += [Asked(FACTS, table, "dense table", 4.0)] if table else []
    return source.row([draw_dense(dense)], [dense_labels(dense)], asked)


def _shapes(source: Source, seed: str, pool: Pool) -> Row:
    del pool
    rng = random.Random(seed)  # noqa: S311
    number = rng.choice(list(source.shapes.by_image))
    questions = source.shapes.by_image[number]
    asked = [
        Asked(one.text, ((one.answer, True),), f"shapes {'open' if one.is_open else 'yes-no'}")
        for one in questions
    ]
    opened = [one for one in asked if one.kind == "shapes open"]
    closed = [one for one in asked if one.kind != "shapes open"]
    chosen = [*opened, *rng.sample(closed, min(3, len(closed)))]
    image = source.shapes.image(number).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return source.row([image], [shape_labels(source.shapes, number)], chosen)


def _several(count: int, source: Source, seed: str, pool: Pool) -> Row:
    rng = random.Random(seed)  # noqa: S311
    scenes = [
        compose2(f"{seed}/{i}", pool, "small")
        if rng.random() < 0.6
        else compose(f"{seed}/{i}", pool)
        for i in range(count)
    ]
    asked = image_questions(scenes, rng)
    if not asked:
        return _several(count, source, f"{seed}/again", pool)
    return source.row(list(map(render, scenes)), list(map(scene_labels, scenes)), asked)


def _clip(edition: int, source: Source, seed: str, pool: Pool) -> Row:
    clip = compose_clip(seed, pool) if edition == 1 else compose_clip2(seed, pool)
    labels = {frame: scene_labels(frame, GRID // 2) for frame in set(clip.frames)}
    asked = clip_questions(clip, random.Random(f"{seed}/asked"))  # noqa: S311
    return source.row(render_clip(clip), [labels[frame] for frame in clip.frames], asked)


ONE, TWO = (1, 336), (2, 336)
THREE, CLIP = (3, 336), (8, 168)
RECIPES: dict[str, tuple[Shape, float, Recipe]] = {
    "dense": (ONE, 0.20, _dense),
    "mixed": (ONE, 0.07, functools.partial(_second, "mixed")),
    "small": (ONE, 0.14, functools.partial(_second, "small")),
    "counting": (ONE, 0.10, functools.partial(_second, "counting")),
    "signs": (ONE, 0.06, functools.partial(_second, "signs")),
    "fine": (ONE, 0.09, functools.partial(_second, "fine")),
    "document": (ONE, 0.10, functools.partial(_second, "document")),
    "first": (ONE, 0.16, _first),
    "shapes": (ONE, 0.08, _shapes),
    "two": (TWO, 0.6, functools.partial(_several, 2)),
    "three": (THREE, 0.4, functools.partial(_several, 3)),
    "clip": (CLIP, 0.35, functools.partial(_clip, 1)),
    "clip2": (CLIP, 0.65, functools.partial(_clip, 2)),
}
"""Each recipe's shape, its share of the rows of that shape, and what draws it."""
SHARES: dict[Shape, float] = {ONE: 0.84, TWO: 0.04, THREE: 0.03, CLIP: 0.09}
"""Share of training steps of each shape."""
RUN = 100_000  # more than the shards of a run
SHARD_ROWS = {ONE: 32, TWO: 21, THREE: 15, CLIP: 21}
"""Rows that are drawn together: as many as make about the same number of tokens."""


def shares(names: Collection[str]) -> dict[Shape, float]:
    """Return the share of training steps of each shape that some of these recipes have."""
    kept = {RECIPES[name][0] for name in names}
    return {shape: share for shape, share in SHARES.items() if shape in kept}


def draw(
    source: Source, number: int, only: Collection[str] = tuple(RECIPES)
) -> tuple[Shape, list[Row]]:
    """Return the shard of a number: rows of one shape; a run's first shards are of all shapes."""
    rng = random.Random(f"{SEED}/{number}")  # noqa: S311
    shapes = shares(only)
    shape = rng.choices(list(shapes), list(shapes.values()))[0]
    if number % RUN < len(shapes):
        shape = list(shapes)[number % RUN]
    here = {name: RECIPES[name][1] for name in RECIPES if name in only}
    here = {name: share for name, share in here.items() if RECIPES[name][0] == shape}
    names = rng.choices(list(here), list(here.values()), k=SHARD_ROWS[shape])
    seeds = [f"{SEED}/{number}/{i}" for i in range(len(names))]
    made = [
        RECIPES[name][2](source, seed, "train") for name, seed in zip(names, seeds, strict=True)
    ]
    return shape, made


def draw_held_out(source: Source, name: str, numbers: range) -> tuple[Shape, list[Row]]:
    """Return rows of one recipe on photographs that training never shows."""
    shape, _, recipe = RECIPES[name]
    return shape, [recipe(source, f"held-out-2/{name}/{i}", "test") for i in numbers]
