"""The first stage: each visual token learns to stand for the words that name what its patch shows.

The projector alone is trained, without the decoder: a visual token's product with the embeddings of all names must be
largest for the name of the thing under its patch (likewise for its colour, for the word on a sign, and for the row and
column of the patch). It costs minutes, and the decoder then starts from visual tokens that already mean something in
its own space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from features import PATCH
from rich.progress import track
from torch import nn

from sparsight.scenes.catalogue import COLOURS, THINGS, WORDS
from sparsight.scenes.scene import SIZE, Box, Scene

GRID = SIZE // PATCH
NOTHING = "background"
COVERED = 0.55  # share of a patch that a box covers for the patch to show what is in it
_SCENES = 16  # per step
_SCALE = 12.0  # largest difference of two logits, roughly


@dataclass(frozen=True)
class Names:
    """Words that visual tokens can stand for.

    Args:
        words: each one token when a space stands before it.
        embeddings: (W, D) what the decoder reads for them; 0 for NOTHING.
        directions: (W, D) the same, centred, of length 1.
    """

    words: tuple[str, ...]
    embeddings: torch.Tensor
    directions: torch.Tensor

    @classmethod
    def of(cls, words: list[str], processor: Any, embedding: torch.Tensor) -> Names:
        """Looks up the embeddings; a word of several tokens gives their mean."""
        ids = [processor.tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words]
        rows = torch.stack([embedding[i].float().mean(0) for i in ids])
        centred = rows - embedding.float().mean(0)
        rows = rows * torch.tensor([[word != NOTHING] for word in words])
        return cls(tuple(words), rows, centred / centred.norm(dim=-1, keepdim=True))


def labels(scene: Scene) -> tuple[list[str], list[str]]:
    """Returns the name and the colour that each patch shows, in raster order."""
    names, colours = [NOTHING] * GRID**2, [NOTHING] * GRID**2
    shown = [(item.box, item.thing, item.colour or NOTHING) for item in scene.items]
    shown += [(sign.box, NOTHING if sign.text.isdigit() else sign.text, sign.colour) for sign in scene.signs]
    for box, name, colour in shown:
        for patch in covered(box):
            names[patch], colours[patch] = name, colour
    return names, colours


def covered(box: Box) -> list[int]:
    """Returns the patches of which a box covers at least the share COVERED."""
    found = []
    for row in range(box.top // PATCH, min(GRID, -(-box.bottom // PATCH))):
        high = min(box.bottom, (row + 1) * PATCH) - max(box.top, row * PATCH)
        for column in range(box.left // PATCH, min(GRID, -(-box.right // PATCH))):
            wide = min(box.right, (column + 1) * PATCH) - max(box.left, column * PATCH)
            if high * wide >= COVERED * PATCH**2:
                found.append(row * GRID + column)
    return found


class Targets:
    """What every patch of every training scene stands for, as numbers."""

    def __init__(self, scene: Callable[[int], Scene], count: int, names: Names, colours: Names) -> None:
        self.names = torch.empty((count, GRID**2), dtype=torch.int16)
        self.colours = torch.empty((count, GRID**2), dtype=torch.int16)
        for number in range(count):
            rows = labels(scene(number))
            for store, row, known in zip((self.names, self.colours), rows, (names, colours), strict=True):
                store[number] = torch.tensor([known.words.index(word) for word in row])


def align(
    student: Any, processor: Any, store: np.ndarray, scene: Callable[[int], Scene], *, steps: int, seed: int
) -> dict[str, float]:
    """Trains the projector; returns how often a thing's patch got name, colour, row and column right at the end."""
    words = [NOTHING, *dict.fromkeys([thing.name for thing in THINGS] + list(WORDS))]
    names = Names.of(words, processor, student.embedding)
    colours = Names.of([NOTHING, *COLOURS], processor, student.embedding)
    targets = Targets(scene, len(store), names, colours)
    length = float(student.embedding.float().norm(dim=-1).median())
    optimizer = torch.optim.AdamW(student.projector.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    dice, hits = torch.Generator().manual_seed(seed), []
    for _ in track(range(steps), "align"):
        picked = torch.randint(len(store), (_SCENES,), generator=dice)
        shown = targets.names[picked].long().flatten()
        painted = targets.colours[picked].long().flatten()
        chance = torch.where((shown > 0) | (painted > 0), 1.0, 0.2)
        chosen = torch.rand(len(shown), generator=dice) < chance
        features = torch.from_numpy(np.stack([store[int(i)] for i in picked]).astype(np.float32)).flatten(0, 1)[chosen]
        tokens = student.projector((features - student.mean) / student.std)  # (n, 576)
        scale = _SCALE / length
        known = ((names, shown), (colours, painted))
        logits = [tokens @ words.directions.T * scale for words, _ in known]
        losses = [nn.functional.cross_entropy(x, true[chosen]) for x, (_, true) in zip(logits, known, strict=True)]
        meant = names.embeddings[shown[chosen]] + colours.embeddings[painted[chosen]]
        far = (tokens - meant).square().sum(-1).mean() / length**2
        loss = 0.1 * sum(losses) + far
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        real = shown[chosen] > 0
        right = [(x.argmax(-1) == true[chosen])[real] for x, (_, true) in zip(logits, known, strict=True)]
        hits.append([float(row.float().mean()) for row in right])
    means = np.mean(hits[-max(1, steps // 10) :], axis=0).tolist()
    return {name: round(mean, 4) for name, mean in zip(("name", "colour"), means, strict=True)}
