"""The training questions on scenes; every picture follows from a number.

No picture is of the evaluation split.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from packing import Asked, Pieces, Prompt

from sparsight.evaluate.scenes import ask, ask_small
from sparsight.evaluate.scenes.ask import Turn
from sparsight.evaluate.scenes.catalogue import THINGS
from sparsight.evaluate.scenes.compose import Clip
from sparsight.evaluate.scenes.draft import about_clip, which_image
from sparsight.evaluate.scenes.scene import Item, Paper, Scene

FACTS = "Look up these things."
_LIST_WEIGHT = 4.0  # of an answer that says many things
_LATER_WEIGHT = 2.0  # of two answers
_LINES = 7  # of a table, at most

Relation = tuple[str, Item, Item]  # words, anchor, thing
Asker = Callable[[Scene, random.Random], Turn | None]
_FIRST: tuple[tuple[str, Asker, int], ...] = (
    ("existence", ask.present, 3),
    ("existence", partial(ask.absent, how="random"), 1),
    ("existence", partial(ask.absent, how="popular"), 1),
    ("existence", partial(ask.absent, how="adversarial"), 1),
    ("attribute", ask.colour, 3),
    ("attribute", ask.kind, 1),
    ("relation", ask.relation, 2),
    ("relation", ask.two_steps, 1),
    ("reading", ask.reading, 2),
    ("counting", ask.counting, 2),
    ("place", ask.place, 3),
)
_SECOND: tuple[tuple[str, Asker, int], ...] = (
    ("existence", ask.present, 2),
    ("existence", partial(ask.absent, how="random"), 1),
    ("existence", partial(ask.absent, how="popular"), 1),
    ("existence", partial(ask.absent, how="adversarial"), 1),
    ("existence", ask_small.pair_present, 2),
    ("existence", ask_small.pair_absent, 2),
    ("attribute", ask.colour, 4),
    ("attribute", ask_small.kind_of_colour, 2),
    ("place", ask.place, 3),
    ("reading", ask_small.read_sign, 4),
    ("reading", ask_small.price, 4),
    ("reading", ask_small.what_costs, 3),
)
_COUNTING: tuple[tuple[str, Asker, int], ...] = (("counting", ask.counting, 3), *_SECOND[:5])


def first_questions(scene: Scene, rng: random.Random, prompt: Prompt) -> list[Asked]:
    """Draw questions on a scene of the first edition."""
    near = ask.relations(scene)
    turns = _draw(_FIRST, scene, rng)
    asked = [_short(turn, f"first {family}") for family, turn in turns]
    caption = ask.caption(scene, rng)
    if caption:
        asked.append(Asked(caption.question, ((caption.answer, True),), "caption", _LIST_WEIGHT))
    return [*asked, *_later([turn for _, turn in turns], rng, prompt), *_tables(scene, near, rng)]


def second_questions(
    scene: Scene, rng: random.Random, prompt: Prompt, kind: str, more: Sequence[Turn] = ()
) -> list[Asked]:
    """Draw questions on a scene of the second edition.

    Args:
        scene: to ask about.
        rng: draws.
        prompt: writes conversations.
        kind: of scene; names the accuracies.
        more: questions besides.
    """
    near = ask_small.nearest_relations(scene)  # slow, so once for all
    turns = _draw(_COUNTING if kind == "counting" else _SECOND, scene, rng)
    turns += [("relation", turn) for turn in _relations(near, rng)]
    asked = [_short(turn, f"{kind} {family}") for family, turn in turns]
    asked += [_short(turn, f"{kind} other") for turn in more]
    both = [*(turn for _, turn in turns), *more]
    return [*asked, *_later(both, rng, prompt), *_tables(scene, near, rng)]


def _relations(near: Sequence[Relation], rng: random.Random) -> list[Turn]:
    """Draw questions on neighbours, worded as `ask_small.nearest` and `nearest_colour` do."""
    chosen = rng.sample(near, min(4, len(near)))
    painted = [row for row in near if row[2].colour]
    coloured = rng.sample(painted, min(3, len(painted)))
    one = [
        ask.turn(f"What is {words} the {anchor.thing}?", item.thing)
        for words, anchor, item in chosen
    ]
    two = [
        ask.turn(f"What color is the thing {words} the {anchor.thing}?", str(item.colour))
        for words, anchor, item in coloured
    ]
    return [*one, *two]


def _draw(
    times: Sequence[tuple[str, Asker, int]], scene: Scene, rng: random.Random
) -> list[tuple[str, Turn]]:
    """Draw questions with their family, the same question never twice."""
    made = [(family, make(scene, rng)) for family, make, count in times for _ in range(count)]
    return list({turn.question: (family, turn) for family, turn in made if turn}.values())


def _short(turn: Turn, kind: str) -> Asked:
    return Asked(turn.question, ((turn.answer, True),), kind)


def _later(turns: Sequence[Turn], rng: random.Random, prompt: Prompt) -> list[Asked]:
    """Draw conversations of two questions."""
    if len(turns) < 2:
        return []
    pairs = [rng.sample(turns, 2) for _ in range(min(3, len(turns) // 2))]
    said = map(_list_words, pairs)
    return [Asked(*prompt.conversation(words), "later", _LATER_WEIGHT) for words in said]


def _list_words(turns: Sequence[Turn]) -> list[tuple[str, str]]:
    """Return question and answer of each turn."""
    return [(turn.question, turn.answer) for turn in turns]


def _tables(scene: Scene, near: Sequence[Relation], rng: random.Random) -> list[Asked]:
    """Draw the tables that a scene allows."""
    made = (facts(scene, rng), neighbours(near, rng), _list_signs(scene, rng))
    tables = [table for table in (*made, *map(_rows, scene.papers)) if table]
    return [Asked(FACTS, table, "facts", _LIST_WEIGHT) for table in tables]


def facts(scene: Scene, rng: random.Random) -> Pieces:
    """Draw a table of things, some absent: names are given; colour and place, or absence, are said.

    A question costs twenty tokens and teaches one word; a line of this table costs six and teaches
    three.
    """
    here = rng.sample(scene.singles, min(_LINES, len(scene.singles)))
    shown = {item.thing for item in scene.items}
    away = [thing.name for thing in THINGS if thing.name not in shown]
    lines = [
        (item.thing, f" {item.colour or 'plain'} {ask.cell(item.box) or 'between'}\n")
        for item in here
    ]
    lines += [(name, " none\n") for name in rng.sample(away, rng.randrange(2, 4))]
    rng.shuffle(lines)
    return tuple(piece for name, said in lines for piece in ((f" {name}:", False), (said, True)))


def neighbours(near: Sequence[Relation], rng: random.Random) -> Pieces:
    """Draw a table of what is left of, right of, above, below, next to or nearest to what."""
    lines = [
        (f" {words} the {anchor.thing}:", f" {item.label}\n")
        for words, anchor, item in rng.sample(near, min(_LINES, len(near)))
    ]
    return tuple(piece for asked, said in lines for piece in ((asked, False), (said, True)))


def _list_signs(scene: Scene, rng: random.Random) -> Pieces:
    """Draw a table of signs, from top to bottom: the colour is given, the text is said."""
    del rng
    signs = sorted(scene.signs, key=lambda sign: (sign.box.top, sign.box.left))
    lines = [(f" {sign.colour} sign:", f" {sign.text.lower()}\n") for sign in signs]
    return tuple(piece for asked, said in lines for piece in ((asked, False), (said, True)))


def _rows(paper: Paper) -> Pieces:
    """Return a table of a sheet's rows: the label is given, the value is said."""
    lines = [(f" {label.lower()}:", f" {value}\n") for label, value in paper.rows]
    return tuple(piece for asked, said in lines for piece in ((asked, False), (said, True)))


def clip_questions(clip: Clip, rng: random.Random) -> list[Asked]:
    """Draw questions on a clip: what happens in it, and what its first frame shows."""
    still = [
        make(clip.frames[0], rng)
        for make in (ask.present, partial(ask.absent, how="random"), ask.colour, ask.place)
    ]
    turns = [
        replace(turn, question=turn.question.replace("image", "video")) for turn in still if turn
    ]
    asked = [_short(turn, "clip still") for turn in turns if clip.subject not in turn.question]
    event = clip.event if clip.event.startswith(("appears", "disappears")) else "moves"
    return [_short(about_clip(clip), f"clip {event}"), *asked]


def image_questions(scenes: Sequence[Scene], rng: random.Random) -> list[Asked]:
    """Draw questions on which of several scenes shows something, and what one of them shows."""
    made = [which_image(list(scenes), rng) for _ in range(4)]
    made += [ask_small.in_one_image(scenes, rng) for _ in range(6)]
    turns = {turn.question: turn for turn in made if turn}.values()
    kinds = {True: "several which", False: "several one"}
    return [_short(turn, kinds[turn.question.startswith("Which image")]) for turn in turns]
