"""The second stage: LoRA matrices teach the decoder to answer from the visual tokens that ship.

A step shows whole images, or random visual tokens of them: as many of each image, any number from
32 up, each token as likely as any other. Positions are those of inference.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from eye import Eye
from packing import Batch, Encoded, Layout, Prompt, Told, pack
from recipes import ONE, Row, Shape
from stage import Clock, Log, Machine, Progress, adam, restore
from student import Student
from supply import Supply
from torch import nn
from torch.nn import functional
from trainer import Trainer

PATCH = 14
_FEWEST = 32 / 576  # of the visual tokens of an image
_TEXT = {True: 288, False: 144}  # tokens of a row's questions, with one image or several
_OF_A_KIND = 3  # questions of a row, at most
_HELD_OUT = 14  # questions of a held-out row, at most


@dataclass(frozen=True)
class Work:
    """One batch.

    Args:
        images: (b * images, px, px, 3) uint8.
        chosen: (b * images, seen) patches that are shown, ascending.
        layout: of the rows.
        batch: packed questions.
    """

    images: torch.Tensor
    chosen: torch.Tensor
    layout: Layout
    batch: Batch

    def on(self, machine: Machine, *, pin: bool) -> Work:
        """Return the batch pinned, or on the device."""
        move = machine.pinned if pin else machine.moved
        fields = ("text", "positions", "members", "picks", "targets", "owners", "shares")
        moved = {name: move(getattr(self.batch, name)) for name in fields}
        batch = Batch(**moved, kinds=self.batch.kinds)
        return Work(move(self.images), move(self.chosen), self.layout, batch)


def work(
    prompt: Prompt,
    rows: Sequence[Row],
    told: Sequence[Sequence[Encoded]],
    seen: int | None,
    rng: np.random.Generator,
) -> Work:
    """Return a batch of rows of one shape; `seen` visual tokens of each image, None for all."""
    images = np.concatenate([row.images for row in rows])
    patches = (images.shape[1] // PATCH) ** 2
    layout = Layout(rows[0].images.shape[0], patches, seen or patches)
    if seen is None:
        chosen = np.tile(np.arange(patches), (len(images), 1))
    else:
        dice = rng.random((len(images), patches))
        chosen = np.sort(np.argpartition(dice, seen - 1, 1)[:, :seen], 1)
    places = torch.from_numpy(chosen.astype(np.int64))
    return Work(torch.from_numpy(images), places, layout, pack(prompt, told, layout, places))


def choose(told: Told, most: int, rng: random.Random) -> list[Encoded]:
    """Return some questions of a row, few of one kind, up to `most` tokens where possible."""
    order = rng.sample(range(len(told)), len(told))
    chosen: list[int] = []
    kinds: dict[str, int] = defaultdict(int)
    length = 0
    for number in order:
        fits = length + told.lengths[number] <= most and kinds[told.kinds[number]] < _OF_A_KIND
        if fits or (number == order[-1] and not chosen):
            chosen.append(number)
            kinds[told.kinds[number]] += 1
            length += int(told.lengths[number])
    return [told[number] for number in chosen]


@dataclass(frozen=True)
class DecoderPlan:
    """How long and how much at once the second stage trains.

    Args:
        minutes: time budget.
        tokens: per step, roughly.
        steps: at most; None for no limit.
        every_shape: whether the steps go round all shapes, as a trial's do.
        subsets: share of the steps that show random visual tokens instead of all.
        rate: peak learning rate.
        measure: seconds from one accuracy on held-out rows to the next.
        seed: of the draws.
    """

    minutes: float
    tokens: int
    steps: int | None
    every_shape: bool
    subsets: float
    rate: float
    measure: float
    seed: int


class Composer:
    """Makes the batches of the second stage.

    Args:
        supply: gives rows.
        prompt: the chat template.
        plan: how much at once.
        machine: where it computes.
    """

    def __init__(self, supply: Supply, prompt: Prompt, plan: DecoderPlan, machine: Machine) -> None:
        self._supply = supply
        self.prompt = prompt
        self._plan = plan
        self.machine = machine

    def step(self, number: int) -> Work:
        """Return the batch of a step."""
        rng = random.Random(f"{self._plan.seed}/decoder/{number}")  # noqa: S311
        dice = np.random.default_rng([self._plan.seed, number])
        shares = self._supply.shares
        shape: Shape = rng.choices(list(shares), list(shares.values()))[0]
        if self._plan.every_shape:
            shape = list(shares)[number % len(shares)]
        images, px = shape
        patches = (px // PATCH) ** 2
        seen = None
        if rng.random() < self._plan.subsets:
            seen = rng.randrange(round(_FEWEST * patches), patches + 1)
        text = _TEXT[shape == ONE]
        count = max(2, self._plan.tokens // (images * (seen or patches) + text))
        rows = self._supply.take(shape, count)
        told = [choose(row.told, text, rng) for row in rows]
        return work(self.prompt, rows, told, seen, dice).on(self.machine, pin=True)


@torch.inference_mode()
def measure(
    student: Student,
    eye: Eye,
    held_out: dict[str, tuple[Shape, list[Row]]],
    prompt: Prompt,
    machine: Machine,
    *,
    share: float = 1.0,
) -> dict[str, tuple[float, int]]:
    """Return exact-match accuracies on held-out rows and how many questions each rests on.

    All argmax tokens right is what greedy decoding needs to answer right.

    Args:
        student: the decoder.
        eye: makes visual tokens.
        held_out: rows by recipe.
        prompt: the chat template.
        machine: where to compute.
        share: of the visual tokens, drawn at random.
    """
    hits: dict[str, list[float]] = defaultdict(list)
    for batch in _held_out_work(held_out, prompt, share):
        moved = batch.on(machine, pin=False)
        logits = student(_shown(eye, moved), moved.layout, moved.batch)
        right = (logits.argmax(-1) == moved.batch.targets).float()
        out = right.new_zeros(len(batch.batch.kinds))
        whole = out.scatter_reduce(0, moved.batch.owners, right, "amin", include_self=False)
        for kind, hit in zip(batch.batch.kinds, whole.tolist(), strict=True):
            hits[kind].append(hit)
    return {kind: (round(float(np.mean(row)), 4), len(row)) for kind, row in sorted(hits.items())}


def _held_out_work(
    held_out: dict[str, tuple[Shape, list[Row]]], prompt: Prompt, share: float
) -> Iterator[Work]:
    for name, (shape, rows) in sorted(held_out.items()):
        size = 8 if shape == ONE else 4
        rng, dice = random.Random(name), np.random.default_rng(0)  # noqa: S311
        patches = (shape[1] // PATCH) ** 2
        seen = None if share >= 1 else round(share * patches)
        for at in range(0, len(rows), size):
            part = rows[at : at + size]
            told = [_some(row.told, rng) for row in part]
            yield work(prompt, part, told, seen, dice)


def _some(told: Told, rng: random.Random) -> list[Encoded]:
    numbers = rng.sample(range(len(told)), min(_HELD_OUT, len(told)))
    return [told[number] for number in numbers]


def _shown(eye: Eye, batch: Work) -> torch.Tensor:
    """Return the visual tokens that a batch shows, (b * images, seen, D)."""
    tokens = eye(batch.images)
    places = batch.chosen[..., None].expand(-1, -1, tokens.shape[-1])
    shown: torch.Tensor = tokens.gather(1, places)
    return shown


def train_decoder(
    student: Student, eye: Eye, composer: Composer, supply: Supply, *, plan: DecoderPlan, out: Path
) -> Progress:
    """Train the LoRA matrices, with log and checkpoints; return what was done."""
    torch.manual_seed(plan.seed)
    machine, values = composer.machine, student.lora()
    matrices = [value for value in values.values() if isinstance(value, nn.Parameter)]
    optimizer = adam([(matrices, plan.rate)], 0.0)
    progress = restore(out / "decoder.safetensors", values, optimizer)

    def losses(pinned: Work) -> dict[str, torch.Tensor]:
        batch = pinned.on(machine, pin=False)
        with torch.no_grad():
            tokens = _shown(eye, batch)
        logits = student(tokens, batch.layout, batch.batch).float()
        each = functional.cross_entropy(logits, batch.batch.targets, reduction="none")
        right = (logits.detach().argmax(-1) == batch.batch.targets).float().mean()
        return {"loss": (each * batch.batch.shares).sum(), "right": right}

    Trainer(
        log=Log(out / "log.jsonl", "decoder"),
        path=out / "decoder.safetensors",
        values=values,
        optimizer=optimizer,
        clock=Clock(plan.minutes, progress.seconds, plan.steps),
        progress=progress,
        losses=losses,
        measure=lambda: measure(student, eye, supply.held_out, composer.prompt, machine),
        measure_s=plan.measure,
        supply=supply,
    ).run(composer.step)
    return progress
