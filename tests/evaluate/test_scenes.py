"""Scenes: the same everywhere, boxes where things are, and a split whose answers are balanced."""

import json
import random
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image

from sparsight.errors import InputError
from sparsight.evaluate.scenes import (
    FAMILIES,
    SUITES,
    Box,
    Draft,
    compose_shipped,
    compose_suite,
    load_images,
    load_suite,
)
from sparsight.evaluate.scenes.ask import ORDINALS, PLACES, cell
from sparsight.evaluate.scenes.catalogue import COLOURS, THINGS
from sparsight.evaluate.scenes.compose import FRAMES, MOST, compose, compose_clip
from sparsight.evaluate.scenes.render import CLIP_SIZE, render, render_clip
from sparsight.evaluate.scenes.scene import SIZE, backgrounds
from sparsight.evaluate.scenes.suite import QUESTIONS, write_questions

SPLIT = SUITES["scenes-1"]
SUITE = load_suite(SPLIT)
NOTHING = ("no", "0")
BYTES = 12_000_000


@pytest.fixture(scope="module")
def shown():
    """Every image of the split, by question."""
    return {question.id: load_images(question, SPLIT) for question in SUITE}


def of(family, split=None):
    return [
        question
        for question in SUITE
        if question.family == family and split in (None, question.split)
    ]


@pytest.mark.parametrize("pool", ["train", "test"])
def test_a_seed_gives_one_layout_and_one_picture(pool):
    for seed in ("a", "b"):
        scene, again = compose(seed, pool), compose(seed, pool)
        assert scene == again
        assert render(scene).tobytes() == render(again).tobytes()
    assert compose("a", pool) != compose("b", pool)
    clip = compose_clip("a", pool)
    assert clip == compose_clip("a", pool)
    assert [frame.tobytes() for frame in render_clip(clip)] == [
        frame.tobytes() for frame in render_clip(clip)
    ]


def test_the_split_that_ships_is_what_its_recipe_says(shown):
    draft = compose_shipped("scenes-1")
    assert [replace(one, hard_for_downscaling=None) for one in SUITE] == draft.questions
    for question in draft.questions[::9]:
        picture = draft.pictures[question.images[0].removesuffix(".webp")]
        drawn = render_clip(picture)[0] if question.frames else render(picture)
        kept = np.asarray(shown[question.id][0], dtype=int)
        assert np.abs(kept - np.asarray(drawn, dtype=int)).mean() < 6


def test_a_suite_is_written_the_same_twice(tmp_path):
    for name in ("one", "two"):
        compose_suite(3, "test", share=0.02).write(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) > len(FAMILIES)
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_pools_share_no_background():
    assert not set(backgrounds("train")) & set(backgrounds("test"))
    assert len(backgrounds("train")) > len(backgrounds("test")) > 0
    for number in range(40):
        assert compose(str(number), "train").background in backgrounds("train")
        assert compose(str(number), "test").background in backgrounds("test")


@pytest.mark.parametrize("seed", range(12))
def test_things_do_not_touch_and_lie_inside(seed):
    scene = compose(str(seed), "train")
    boxes = [thing.box for thing in (*scene.items, *scene.signs)]
    for number, box in enumerate(boxes):
        assert 0 <= box.left < box.right <= SIZE
        assert 0 <= box.top < box.bottom <= SIZE
        assert not any(box.touches(other) for other in boxes[:number])


def test_things_are_painted_inside_their_boxes():
    scenes = (compose(str(seed), "test") for seed in range(40))
    scene = next(scene for scene in scenes if len(scene.items) > 2)
    bare = np.asarray(render(replace(scene, items=(), signs=())), dtype=int)
    change = np.abs(np.asarray(render(scene), dtype=int) - bare).sum(axis=-1) > 0
    for thing in (*scene.items, *scene.signs):
        inside = change[thing.box.top : thing.box.bottom, thing.box.left : thing.box.right]
        assert inside.mean() > 0.1
        inside[:] = False
    assert not change.any()


def test_a_thing_is_where_its_cell_says():
    for row in range(3):
        for column in range(3):
            left, top = column * 112 + 36, row * 112 + 36
            assert cell(Box(left, top, left + 40, top + 40)) == PLACES[3 * row + column]
    assert cell(Box(92, 36, 132, 76)) is None


def test_ids_are_unique_and_images_exist(shown):
    assert len({question.id for question in SUITE}) == len(SUITE) > 400
    for question in SUITE:
        assert len(shown[question.id]) == (question.frames or len(question.images))
        side = CLIP_SIZE if question.frames else SIZE
        assert {image.size for image in shown[question.id]} == {(side, side)}
    used = {name for question in SUITE for name in question.images}
    assert used == {path.name for path in (SPLIT / "images").iterdir()}


def test_the_split_is_small():
    assert sum(path.stat().st_size for path in SPLIT.rglob("*") if path.is_file()) <= BYTES


@pytest.mark.parametrize("question", SUITE, ids=lambda question: question.id)
def test_boxes_lie_inside(question):
    side = CLIP_SIZE if question.frames else SIZE
    for turn in question.turns:
        assert len(turn.boxes) == (question.frames or len(question.images))
        boxes = [box for own in turn.boxes for box in own]
        assert bool(boxes) == (turn.answer not in NOTHING)
        for box in boxes:
            assert 0 <= box.left < box.right <= side
            assert 0 <= box.top < box.bottom <= side


def test_answers_are_those_of_their_family():
    names = {thing.name for thing in THINGS}
    allowed = {
        "existence": {"yes", "no"},
        "place": set(PLACES),
        "counting": {str(count) for count in range(MOST + 1)},
        "multi-image": set(ORDINALS),
    }
    for family, answers in allowed.items():
        assert {question.turns[-1].answer for question in of(family)} <= answers
    assert {question.turns[0].answer for question in of("counting")} == allowed["counting"]
    assert {question.turns[0].answer for question in of("multi-image")} == allowed["multi-image"]
    assert {question.turns[0].answer for question in of("attribute", "kind")} <= names
    assert {question.turns[0].answer for question in of("clip", "event")} <= names
    assert {question.turns[0].answer for question in of("clip", "motion")} == {
        "left",
        "right",
        "up",
        "down",
    }


@pytest.mark.parametrize("split", ["random", "popular", "adversarial"])
def test_existence_is_balanced(split):
    answers = Counter(question.turns[0].answer for question in of("existence", split))
    assert answers["yes"] == answers["no"] == 16


def test_counted_things_have_as_many_boxes():
    for question in of("counting"):
        (boxes,) = question.turns[0].boxes
        assert len(boxes) == int(question.turns[0].answer)


def test_colours_asked_for_are_those_painted(shown):
    """The answer is the colour that most pixels in the middle of the box are near to."""
    ranks = []
    for question in of("attribute", "color"):
        turn = question.turns[0]
        assert turn.answer in COLOURS
        ((box,),) = turn.boxes
        pixels = np.asarray(shown[question.id][0], dtype=float)[
            box.top : box.bottom, box.left : box.right
        ]
        middle = pixels[
            len(pixels) // 4 : -len(pixels) // 4, len(pixels) // 4 : -len(pixels) // 4
        ].reshape(-1, 3)
        near = np.array(
            [(np.abs(middle - value).sum(-1) < 110).mean() for value in COLOURS.values()]
        )
        ranks.append(int((near > near[list(COLOURS).index(turn.answer)]).sum()))
    assert np.mean(ranks) < 0.5
    assert Counter(ranks)[0] >= 0.8 * len(ranks)


def test_a_suite_is_read_as_it_was_written(tmp_path):
    write_questions(list(SUITE), tmp_path)
    assert load_suite(tmp_path) == SUITE
    hard = [replace(SUITE[0], hard_for_downscaling=(64, 192)), *SUITE[1:]]
    write_questions(hard, tmp_path)
    assert load_suite(tmp_path) == tuple(hard)


def test_a_draft_writes_what_it_asks(tmp_path):
    draft = compose_suite(5, "train", share=0.01)
    draft.write(tmp_path)
    assert load_suite(tmp_path) == tuple(draft.questions)
    assert {question.family for question in draft.questions} == set(FAMILIES)
    for question in draft.questions:
        assert len(load_images(question, tmp_path)) == (
            FRAMES if question.family == "clip" else len(question.images)
        )


def test_missing_suites_are_named(tmp_path):
    with pytest.raises(InputError, match=f"holds no {QUESTIONS}"):
        load_suite(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.pop("turns"),
        lambda row: row.update(family="gossip"),
        lambda row: row.update(more=1),
        lambda row: row["turns"][0]["boxes"][0].append({"left": 1}),
    ],
)
def test_damaged_suites_are_named(tmp_path, change):
    row = json.loads(json.dumps(asdict(SUITE[0])))
    change(row)
    (tmp_path / QUESTIONS).write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match="is not a suite's list of questions"):
        load_suite(tmp_path)


def test_empty_suites_are_named(tmp_path):
    Draft().write(tmp_path)
    with pytest.raises(InputError, match="asks nothing"):
        load_suite(tmp_path)


def test_missing_and_damaged_images_are_named(tmp_path):
    with pytest.raises(InputError, match=SUITE[0].images[0]):
        load_images(SUITE[0], tmp_path)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / SUITE[0].images[0])
    (tmp_path / "images" / SUITE[0].images[0]).write_bytes(b"RIFF")
    with pytest.raises(InputError, match="cannot be read"):
        load_images(SUITE[0], tmp_path)


def test_drawing_leaves_the_global_random_numbers_alone():
    random.seed(1)
    before = random.getstate()
    compose("x", "test")
    assert random.getstate() == before
