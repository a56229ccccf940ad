"""What calibrated methods add to attention logits, written slowly. Imports nothing of sparsight.

Everything is by slot of the unpruned sequence; what was dropped is for the caller to mask.
"""

import math
from dataclasses import dataclass

import torch

from tests.support.reference_merging import distance_bias


@dataclass(frozen=True)
class Terms:
    """What a method adds: the sizes of keys, log(N / K) in their place in layer 0, distance."""

    level_first: bool
    distance: float | None


def terms_of(method):
    """The terms of a method's settings; None if it adds nothing."""
    if not getattr(method, "calibrate", False):
        return None
    whole = type(method).__name__ == "Restore"
    return Terms(whole, method.c if whole else None)


@dataclass
class Places:
    """Where slots are: for each a list of one position an axis; and each axis' frequencies."""

    positions: list
    axes: list


@dataclass
class Prompt:
    """One pass that was pruned: its slots, its visual ones, and those of them that are left."""

    slots: range
    visual: list
    left: list


def biases(terms, layer, prompts, sizes, places):
    """What each query (row) adds to its logit of each key, (L, L) float64.

    Args:
        prompts: passes that were pruned before this layer.
        sizes: of recycled tokens, by slot; all others have size 1.
    """
    length = len(places.positions)
    added = torch.zeros(length, length, dtype=torch.float64)
    for prompt in prompts:
        for slot in prompt.left:
            level = len(prompt.visual) / len(prompt.left)
            size = level if terms.level_first and layer == 0 else sizes.get(slot, 1)
            added[:, slot] += math.log(size)
        if terms.distance is not None:
            own = [places.positions[slot] for slot in prompt.slots]
            pairs = distance_bias(own, places.axes, terms.distance)
            first, end = prompt.slots[0], prompt.slots[-1] + 1
            # D is even: a key behind its query, where masks allow it, counts as one before it
            added[first:end, first:end] += pairs + pairs.tril(-1).T
    return added


def frequencies(base, width):
    """Inverse rotary frequencies of a head of this width."""
    return [base ** (-2 * j / width) for j in range(width // 2)]


def split_by_axis(every, sections, interleaved):
    """The frequencies that turn with time, with rows and with columns."""
    axis = [number for number, size in enumerate(sections) for _ in range(size)]
    if interleaved:  # t h w t h w ... as far as rows and columns reach, then time
        axis = []
        for j in range(len(every)):
            reaches = j % 3 and j < 3 * sections[j % 3]
            axis.append(j % 3 if reaches else 0)
    parts = [[], [], []]
    for frequency, own in zip(every, axis, strict=True):
        parts[own].append(frequency)
    return parts
