"""The second edition's scenes: small, legible, where their boxes say, and answered rightly."""

import math
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from sparsight.errors import SettingError
from sparsight.evaluate.scenes import ask_small
from sparsight.evaluate.scenes.ask_small import ASKERS
from sparsight.evaluate.scenes.catalogue import THINGS, WORDS
from sparsight.evaluate.scenes.compose import FRAMES, STEPS
from sparsight.evaluate.scenes.compose_small import (
    CLIP_EVENTS,
    KINDS,
    compose2,
    compose_clip2,
)
from sparsight.evaluate.scenes.draft import about_clip
from sparsight.evaluate.scenes.render import contrast, render, render_clip
from sparsight.evaluate.scenes.scene import SIZE, Box, Item, Scene, backgrounds

COUNT = 30


def dice(seed):
    return random.Random(seed)  # noqa: S311 - layouts, not secrets


def scenes(kind, count=COUNT, pool="train"):
    return [compose2(f"{number}", pool, kind) for number in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_one_scene_and_one_picture(kind):
    one, again = compose2("a", "train", kind), compose2("a", "train", kind)
    assert one == again != compose2("b", "train", kind)
    assert render(one).tobytes() == render(again).tobytes()
    assert one.background in backgrounds("train")
    assert compose2("a", "test", kind).background in backgrounds("test")


def test_clips_follow_from_their_seed():
    for event in CLIP_EVENTS:
        clip = compose_clip2("a", "train", event)
        assert clip == compose_clip2("a", "train", event) != compose_clip2("b", "train", event)
        assert clip.event in (STEPS if event == "moves" else (event,))
        assert len(render_clip(clip)) == FRAMES


def test_kinds_that_do_not_exist_are_named():
    with pytest.raises(SettingError, match="'large' does not exist; give one of small, counting"):
        compose2("a", "train", "large")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_touches_and_everything_lies_inside(kind):
    for scene in scenes(kind):
        for number, box in enumerate(scene.taken):
            assert 0 <= box.left < box.right <= SIZE
            assert 0 <= box.top < box.bottom <= SIZE
            assert not any(box.touches(other) for other in scene.taken[:number])


def test_things_are_small_and_many():
    for scene in scenes("small"):
        assert 12 <= len(scene.items) <= 30
        assert len({item.thing for item in scene.items}) < len(scene.items)  # one at least is twice
    sides = [item.box.right - item.box.left for scene in scenes("small") for item in scene.items]
    assert min(sides) == 21
    assert max(sides) == 42
    assert 26 <= np.median(sides) <= 28


def count_things(scene):
    return Counter(item.thing for item in scene.items)


def test_up_to_nine_are_counted():
    most = [max(count_things(scene).values()) for scene in scenes("counting", 80)]
    assert max(most) == 9
    assert min(most) == 1


@pytest.mark.parametrize("family", ASKERS, ids="-".join)
def test_most_scenes_allow_a_question_and_its_boxes_are_inside(family):
    kind, make = ASKERS[family]
    rng = dice(1)
    turns = [made for scene in scenes(kind) if (made := make(scene, rng))]
    assert len(turns) >= COUNT / 2
    for turn in turns:
        (boxes,) = turn.boxes
        assert bool(boxes) == (turn.answer not in ("no", "0"))
        assert all(0 <= box.left < box.right <= SIZE for box in boxes)


def test_pairs_are_there_or_not():
    rng = dice(2)
    for scene in scenes("small"):
        here = {item.label for item in scene.items}
        for make, answer in ((ask_small.pair_present, "yes"), (ask_small.pair_absent, "no")):
            turn = make(scene, rng)
            colour, thing = turn.question.removesuffix(" in the image?").split()[-2:]
            label = f"{colour} {thing}"
            assert turn.answer == answer
            assert (label in here) == (answer == "yes")
            assert any(item.colour == colour for item in scene.items)
            assert any(item.thing == thing for item in scene.items)
            assert thing not in here  # none in its own colours


def test_only_what_is_counted_has_an_article():
    rng = dice(7)
    for thing, words in (("grapes", "orange grapes"), ("cat", "an orange cat")):
        items = (Item(thing, "orange", Box(0, 0, 30, 30)),)
        turn = ask_small.pair_present(Scene("grass", (0, 0), False, items), rng)
        assert turn.question == f"Is there {words} in the image?"


def test_one_of_a_kind_has_the_colour():
    rng, kinds = dice(3), {thing.name: thing.kind for thing in THINGS}
    for scene in scenes("small"):
        if turn := ask_small.kind_of_colour(scene, rng):
            _, kind, _, colour = turn.question.removesuffix("?").split()
            same = [item for item in scene.items if kinds[item.thing] == kind]
            assert all(item.colour for item in same)
            assert [item.thing for item in same if item.colour == colour] == [turn.answer]


def test_neighbours_are_the_nearest_on_their_side():
    rows = [(scene, row) for scene in scenes("small") for row in relations(scene)]
    assert {words for _, (words, _, _) in rows} == {"nearest to", *SIDES}
    for scene, (words, anchor, item) in rows:
        assert [other.thing for other in scene.items].count(anchor.thing) == 1
        away = {other: (dx(anchor, other), dy(anchor, other)) for other in scene.items}
        distance = {other: math.hypot(*way) for other, way in away.items() if other is not anchor}
        if words != "nearest to":
            along, across = SIDES[words](*away[item])
            assert along >= 2 * abs(across)
            distance = {o: d for o, d in distance.items() if ahead(words, away[o])}
        first, *others = sorted(distance.values())
        assert distance[item] == first <= 110
        assert not others or others[0] >= 1.4 * first


SIDES = {
    "just left of": lambda x, y: (-x, y),
    "just right of": lambda x, y: (x, y),
    "just above": lambda x, y: (-y, x),
    "just below": lambda x, y: (y, x),
}


def ahead(words, way):
    along, across = SIDES[words](*way)
    return along > 0 and abs(across) <= 1.5 * along


def relations(scene):
    return ask_small.nearest_relations(scene)


def dx(one, other):
    return other.box.centre[0] - one.box.centre[0]


def dy(one, other):
    return other.box.centre[1] - one.box.centre[1]


def test_signs_are_read_by_their_colour():
    rng = dice(4)
    for scene in scenes("signs") + scenes("fine"):
        turn = ask_small.read_sign(scene, rng)
        _, noun, _, _, _, colour, _ = turn.question.split()
        (sign,) = [sign for sign in scene.signs if sign.colour == colour]
        assert turn.answer == sign.text.lower()
        assert noun == ("number" if sign.text.isdigit() else "word")
        assert len(turn.boxes[0]) == len(sign.text)
    for scene in scenes("mixed"):
        if turn := ask_small.read_sign(scene, rng):
            assert turn.answer.isdigit() or turn.answer in WORDS


def test_prices_are_looked_up():
    rng = dice(5)
    for scene in scenes("document"):
        rows = {label.lower(): value for label, value in scene.papers[0].rows}
        assert len(set(rows.values())) == len(rows)
        turn = ask_small.price(scene, rng)
        label = turn.question.removeprefix("What is the price of ").removesuffix("?")
        assert turn.answer == rows[label]
        assert len(turn.boxes[0]) == len(turn.answer) + 1
        turn = ask_small.what_costs(scene, rng)
        assert rows[turn.answer] == turn.question.removeprefix("What costs ").removesuffix("?")


def test_the_image_that_is_named_shows_the_colour():
    rng = dice(6)
    for number in range(0, COUNT, 3):
        shown = scenes("small")[number : number + 3]
        turn = ask_small.in_one_image(shown, rng)
        (index,) = [i for i, boxes in enumerate(turn.boxes) if boxes]
        thing = turn.question.removeprefix("What color is the ").split()[0]
        assert turn.question.endswith(f"in the {('first', 'second', 'third')[index]} image?")
        (item,) = [item for item in shown[index].items if item.thing == thing]
        assert turn.answer == item.colour
        assert turn.boxes[index] == (item.box,)


@pytest.mark.parametrize(
    ("event", "shown"),
    [("appears", {2, 3, 4}), ("disappears", {2, 3, 4}), ("appears briefly", {1}), ("moves", {8})],
)
def test_something_small_happens_in_a_clip(event, shown):
    for number in range(12):
        clip = compose_clip2(f"{number}", "train", event)
        turn = about_clip(clip)
        counts = [count_things(frame)[clip.subject] for frame in clip.frames]
        assert sum(map(bool, counts)) in shown
        assert [len(boxes) for boxes in turn.boxes] == counts
        assert turn.answer == (clip.event if event == "moves" else clip.subject)
        for boxes in turn.boxes:
            assert all(20 <= box.right - box.left <= 33 for box in boxes)


def test_contrast_is_that_of_the_opaque_pixels():
    """A pixel is opaque where it is equal on two photographs."""
    scene = compose2("a", "train", "small")
    elsewhere = replace(scene, background="brick" if scene.background != "brick" else "grass")
    for item in scene.items[:8]:
        bare, drawn = (
            np.asarray(render(replace(scene, items=items)), dtype=float) for items in ((), (item,))
        )
        other = np.asarray(render(replace(elsewhere, items=(item,))), dtype=float)
        background = np.asarray(render(replace(elsewhere, items=())), dtype=float)
        opaque = (drawn == other).all(-1) & ((drawn != bare) | (other != background)).any(-1)
        assert opaque.sum() > 60
        want = np.abs(drawn - bare).mean(-1)[opaque].mean()
        assert contrast(scene, item) == pytest.approx(want, rel=0.15)
