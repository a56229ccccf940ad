"""The contract's checks bite: each thing broken on purpose fails exactly its own checks."""

import itertools
from dataclasses import dataclass, replace

import pytest
import torch

from sparsight import SparseVLM, sparsify
from sparsight.methods.view import Selection
from sparsight.sequence.compactor import SitePruning
from tests.support import breaks, contract, tiny
from tests.support.cases import tiny_model

BATCH = tiny.batch([["image", 5], ["image", 3, "image", 9], ["image", 8]])
SITES = {"sites": (2, 5), "retain": 0.6, "recycle": False}


@dataclass(frozen=True)
class Broken(SparseVLM):
    """A method whose answer gets spoilt."""

    def select(self, view):
        return self.spoil(super().select(view), view)

    def spoil(self, selection, view):
        return selection


class OneTooFew(Broken):
    def spoil(self, selection, view):
        return replace(selection, keep=selection.keep[:, :-1])


class DropsAll(Broken):
    def spoil(self, selection, view):
        return replace(selection, keep=selection.keep[:, :0])


class Doubles(Broken):
    def spoil(self, selection, view):
        return replace(
            selection,
            keep=torch.cat(
                [selection.keep[:, :1], selection.keep[:, :1], selection.keep[:, 2:]], dim=1
            ),
        )


class NoNumbers(Broken):
    def spoil(self, selection, view):
        return replace(selection, score=selection.score * float("nan"))


class ForgetsAnImage(Broken):
    def spoil(self, selection, view):
        return Selection(
            torch.arange(view.keep_count).expand(len(view.hidden), -1), score=selection.score
        )


def best(score, view):
    """Keep the best of each sample, and the first token of each image."""
    raised = score.clone()
    for row, images in enumerate(view.images):
        for image in images.unique():
            raised[row, (images == image).nonzero()[0, 0]] = 2.0
    return Selection(raised.topk(view.keep_count).indices.sort().values, score=score)


class Dice(Broken):
    rolls = itertools.count()

    def spoil(self, selection, view):
        random = torch.Generator().manual_seed(next(self.rolls))
        return best(torch.rand(view.images.shape, generator=random), view)


class LooksAtTheRow(Broken):
    def spoil(self, selection, view):
        rolled = [
            score.roll(7 * row + len(view.hidden)) for row, score in enumerate(selection.score)
        ]
        return best(torch.stack(rolled), view)


def failing(model, method):
    """Names of the checks that fail."""
    names, case = set(), contract.Case(model, method, BATCH)
    for name, check in contract.CHECKS.items():
        try:
            check(case)
        except (AssertionError, RuntimeError, ValueError):
            names.add(name)
    return names


METHODS = {
    Broken: set(),
    OneTooFew: {"counts"},
    DropsAll: {"counts", "images"},
    Doubles: {"distinct", "order", "alone"},
    NoNumbers: {"finite"},
    ForgetsAnImage: {"images"},
    Dice: {"repeatable", "alone"},
    LooksAtTheRow: {"alone"},
}


@pytest.mark.parametrize("positions", ["keep", "renumber"])
@pytest.mark.parametrize("method", METHODS)
def test_a_broken_method_fails_its_own_checks(monkeypatch, method, positions):
    monkeypatch.setattr(
        "sparsight.methods.answer.check_selection", lambda selection, *_: selection
    )  # the engine's own look at the counts
    assert failing(tiny_model("sdpa"), method(**SITES, positions=positions)) == METHODS[method]


@pytest.mark.parametrize("method", [OneTooFew, DropsAll])
def test_the_engine_itself_refuses_other_counts(method):
    with (
        sparsify(tiny_model("sdpa"), method(**SITES)),
        pytest.raises(ValueError, match=r"exactly \d+ are allowed"),
    ):
        tiny_model("sdpa")(**BATCH.inputs)


def spoil_rows(monkeypatch, change):
    """Have the engine spoil a shortened row; `change` gets indices of visual and text tokens."""
    plain = SitePruning.rearrange

    def rearrange(self):
        values = plain(self).clone()
        order = self.compactor.batch.order.clone()
        for row, sample in enumerate(self.samples):
            start = values.shape[1] - sample.length
            seen, where = (
                self.compactor.slots.image_of[row][order[row, start:]] >= 0,
                torch.arange(sample.length),
            )
            change(where, seen.nonzero().flatten(), (~seen).nonzero().flatten())
            values[row, start:], order[row, start:] = (
                values[row, start:][where],
                order[row, start:][where],
            )
        self.compactor.batch = replace(self.compactor.batch, order=order)
        return values

    monkeypatch.setattr(SitePruning, "rearrange", rearrange)


def swap_visual(where, visual, other):
    where[visual[0]], where[visual[1]] = visual[1].item(), visual[0].item()


def swap_text(where, visual, other):
    where[other[-1]], where[other[-2]] = other[-2].item(), other[-1].item()


def lose_text(where, visual, other):
    where[other[-2]] = other[-1]


def lose_the_middle(where, visual, other):
    between = [i for i in other.tolist() if visual[0] < i < visual[-1]]
    if between:
        where[between[0]] = between[0] - 1


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (swap_visual, {"order"}),
        (swap_text, {"order"}),
        (lose_text, {"text", "distinct"}),
        (lose_the_middle, {"text", "distinct", "order"}),
    ],
)
def test_a_broken_engine_fails_its_own_checks(monkeypatch, change, names):
    spoil_rows(monkeypatch, change)
    assert failing(tiny_model("sdpa"), SparseVLM(**SITES, positions="keep")) == names


def test_a_ledger_that_tells_the_physical_length_fails_decoding(monkeypatch):
    breaks.tells_the_physical_length(monkeypatch)
    assert failing(tiny_model("sdpa"), SparseVLM(**SITES)) == {"decode"}


def test_fillers_that_are_seen_fail_beside_others(monkeypatch):
    breaks.sees_fillers(monkeypatch)
    assert failing(tiny_model("sdpa"), SparseVLM(**SITES)) == {"alone"}


@dataclass(frozen=True)
class DropsOneMore(SparseVLM):
    """The authors' cap of V - 1: full retention still drops a token."""

    def plan(self, layout, layers):
        plan = super().plan(layout, layers)
        return replace(
            plan, kept=(plan.visual_tokens - 1,) * len(plan.sites), recycled=(0,) * len(plan.sites)
        )


def test_full_retention_that_drops_a_token_is_noticed():
    model = tiny_model("sdpa")
    with torch.no_grad():
        plain = model(**BATCH.inputs).logits
        with sparsify(model, DropsOneMore(retain=1.0)):
            assert model(**BATCH.inputs).logits.shape != plain.shape
