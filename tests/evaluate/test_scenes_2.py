"""The second edition's suites as they ship: balanced, small, legible, apart from training."""

from collections import Counter

import numpy as np
import pytest

from sparsight.cli import choices
from sparsight.cli.evaluate import read_suite
from sparsight.errors import SettingError
from sparsight.evaluate.scenes import (
    DEFAULT_SUITE,
    FAMILIES,
    SPLIT,
    SUITES,
    compose_shipped,
    compose_suite,
    load_images,
    load_suite,
)
from sparsight.evaluate.scenes import draft as drafting
from sparsight.evaluate.scenes.ask import PLACES
from sparsight.evaluate.scenes.catalogue import COLOURS
from sparsight.evaluate.scenes.render import CLIP_SIZE, render, render_clip
from sparsight.evaluate.scenes.scene import SIZE, backgrounds

NAMES = ("scenes-2", "scenes-2-dev")
LOADED = {name: load_suite(SUITES[name]) for name in NAMES}
BYTES = 12_000_000


def of(name, family, split=None):
    return [q for q in LOADED[name] if q.family == family and split in (None, q.split)]


@pytest.fixture(scope="module")
def drafts():
    return {name: compose_shipped(name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_suites_are_what_their_recipe_says(name, drafts):
    """All is equal, but another version of Pillow may move a character by a pixel."""
    draft = drafts[name]
    assert [(q.id, q.images, q.frames) for q in draft.questions] == [
        (q.id, q.images, q.frames) for q in LOADED[name]
    ]
    for made, kept in zip(draft.questions, LOADED[name], strict=True):
        for turn, shipped in zip(made.turns, kept.turns, strict=True):
            assert (turn.question, turn.answer) == (shipped.question, shipped.answer)
            if made.family != "reading":
                assert turn.boxes == shipped.boxes
    for question in draft.questions[::9]:
        picture = draft.pictures[question.images[0].removesuffix(".webp")]
        drawn = render_clip(picture)[0] if question.frames else render(picture)
        image = np.asarray(load_images(question, SUITES[name])[0], dtype=int)
        assert np.abs(image - np.asarray(drawn, dtype=int)).mean() < 8


def test_dev_and_test_share_no_photograph(drafts):
    for name, pool in (("scenes-2", "test"), ("scenes-2-dev", "train")):
        pictures = drafts[name].pictures.values()
        scenes = [getattr(picture, "frames", (picture,))[0] for picture in pictures]
        assert {scene.background for scene in scenes} <= set(backgrounds(pool))


@pytest.mark.parametrize("name", NAMES)
def test_no_question_comes_twice_and_each_family_has_enough(name):
    asked = [(q.images, q.turns[-1].question) for q in LOADED[name]]
    assert len(set(asked)) == len(asked)
    assert len({q.id for q in LOADED[name]}) == len(asked)
    counts = Counter(q.family for q in LOADED[name])
    assert set(counts) == set(FAMILIES)
    assert all(40 <= count <= 64 for count in counts.values())


@pytest.mark.parametrize("name", NAMES)
def test_images_have_their_size_and_boxes_lie_inside(name):
    for question in LOADED[name]:
        side = CLIP_SIZE if question.frames else SIZE
        images = load_images(question, SUITES[name])
        assert {image.size for image in images} == {(side, side)}
        for turn in question.turns:
            assert len(turn.boxes) == len(images)
            boxes = [box for here in turn.boxes for box in here]
            assert bool(boxes) == (turn.answer not in ("no", "0"))
            assert all(0 <= box.left < box.right <= side for box in boxes)
            assert all(0 <= box.top < box.bottom <= side for box in boxes)
    used = {image for question in LOADED[name] for image in question.images}
    assert used == {path.name for path in (SUITES[name] / "images").iterdir()}


def test_both_suites_are_small():
    files = [path for name in NAMES for path in SUITES[name].rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= BYTES


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_balanced(name):
    def answers(family, split=None):
        return Counter(q.turns[-1].answer for q in of(name, family, split))

    for split in ("random", "popular", "adversarial", "pair"):
        assert answers("existence", split) == {"yes": 8, "no": 8}
    assert answers("counting") == dict.fromkeys(map(str, range(10)), 4)
    assert set(answers("place")) == set(PLACES)
    assert max(answers("place").values()) - min(answers("place").values()) <= 1
    assert set(answers("attribute", "color")) == set(COLOURS)
    assert max(answers("attribute", "color").values()) <= 4
    assert answers("clip", "motion") == dict.fromkeys(("left", "right", "up", "down"), 3)
    ordinals = [q.turns[0].question.split()[-2] for q in of(name, "multi-image", "named")]
    assert sorted(Counter(ordinals).values()) == [3, 8, 9]  # "third" in a half of them only
    lengths = Counter(len(q.turns[0].answer) for q in of(name, "reading", "number"))
    assert set(lengths) == {2, 3, 4}


def test_other_seeds_give_other_questions():
    one, two = (compose_suite(seed, "test", share=0.05, edition=2) for seed in (7, 8))
    assert one == compose_suite(7, "test", share=0.05, edition=2)
    assert one.questions != two.questions
    assert {q.family for q in one.questions} == set(FAMILIES)
    assert one.quality < compose_suite(7, "test", share=0.01).quality


def test_editions_that_do_not_exist_are_named():
    with pytest.raises(SettingError, match="edition=3 does not exist; give 1 or 2"):
        compose_suite(1, "test", edition=3)


def test_suites_are_named_on_the_command_line():
    assert choices.SUITES.split(", ") == list(SUITES)
    assert read_suite(choices.SCENES) == SPLIT == SUITES[DEFAULT_SUITE]
    for name, folder in SUITES.items():
        assert read_suite(name) == folder
    assert read_suite(str(SPLIT)) == SPLIT


@pytest.mark.parametrize("share", [0, -1.0, float("nan"), float("inf")])
def test_a_share_out_of_range(share):
    with pytest.raises(SettingError, match="give a number above 0"):
        compose_suite(7, "test", share=share, edition=2)


def test_more_questions_than_can_be_found(monkeypatch):
    monkeypatch.setattr(drafting, "_TRIES", 1)
    with pytest.raises(SettingError, match="give a smaller share, and draw more suites"):
        compose_suite(7, "test", share=3, edition=2)
