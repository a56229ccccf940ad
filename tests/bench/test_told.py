"""The choice that is told where the evidence lies keeps it, and keeps its count."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from sparsight.counts.layout import grids_layout
from sparsight.evaluate import find_evidence_tokens
from sparsight.evaluate.scenes import Box, Question, Turn
from sparsight.methods import Sparsight
from sparsight.methods.view import View

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import told
from told import FILLS, Told, ToldConfiguration

SIDE, CELL = 8, 10
LAYOUT = grids_layout([(SIDE, SIDE), (SIDE, SIDE)])
SIZES = ((SIDE * CELL, SIDE * CELL),) * 2
# two turns: two tokens of the first image, then three by three of the second
BOXES = (((Box(0, 0, 20, 10),), ()), ((), (Box(50, 50, 80, 80),)))


def make_view(count):
    hidden = torch.randn(1, len(LAYOUT), 16, generator=torch.Generator().manual_seed(3))
    return View(0, count, count, hidden, LAYOUT.image[None], layout=LAYOUT)


def find_all():
    turns = [find_evidence_tokens(boxes, SIZES, LAYOUT) for boxes in BOXES]
    return torch.stack(turns).any(dim=0).nonzero()[:, 0]


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("count", [11, 12, 30, 127])
def test_the_evidence_of_every_turn_is_kept(fill, count):
    known = find_all()
    assert known.tolist()[:2] == [0, 1]
    assert len(known) == 11
    keep = Told(count, fill=fill, boxes=BOXES, sizes=SIZES).select(make_view(count)).keep
    assert keep.shape == (1, count)
    assert torch.equal(keep[0], keep[0].unique())
    assert torch.isin(known, keep[0]).all()


def test_a_small_count_keeps_evidence_alone():
    keep = Told(5, boxes=BOXES, sizes=SIZES).select(make_view(5)).keep[0]
    assert torch.equal(keep, find_all()[:5])


def test_an_even_fill_lies_all_over_the_image():
    keep = Told(43, fill="even", boxes=BOXES, sizes=SIZES).select(make_view(43)).keep[0]
    rest = keep[~torch.isin(keep, find_all())]
    bands = (rest % SIDE**2) // (2 * SIDE)  # 4 by 4 tokens in each image: 8 in two rows of both
    assert torch.bincount(bands, minlength=4).min() >= 7


def test_without_evidence_it_is_the_recommended_choice():
    view = make_view(20)
    keep = Told(20, boxes=(((), ()),), sizes=SIZES).select(view).keep
    assert torch.equal(keep, Sparsight(20).select(view).keep)


def test_each_question_tells_its_own_boxes(monkeypatch):
    images = [Image.new("RGB", size) for size in SIZES]
    monkeypatch.setattr(told, "load_images", lambda question, suite: images)
    turns = tuple(Turn("?", "a", boxes) for boxes in BOXES)
    question = Question("a", "multi-image", "", ("a", "b"), 0, turns)
    one = ToldConfiguration("told", Told(64), Path())
    assert one.key == "told@64"
    method = one.adapt_method(question, 576, 0)
    assert method == Told(64 / 576, boxes=BOXES, sizes=SIZES)
