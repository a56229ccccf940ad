"""CDPruner, MMTok, EADP and centred SCOPE against slow references; what they refuse."""

from dataclasses import replace

import pytest
import torch

from sparsight.counts.layout import Block, grids_layout, layout_of
from sparsight.errors import BudgetError, MethodError, SettingError
from sparsight.methods import EADP, SCOPE, CDPruner, MMTok
from sparsight.methods.clip import ClipTower
from sparsight.methods.encoder import EncoderNeed, EncoderSignals, TextSignal
from sparsight.methods.view import View
from tests.support import reference_by_text as reference

GRIDS = [(0, 4, 5), (0, 3, 3), (1, 3, 4)]  # an image of two parts, and another one
LAYOUT = layout_of((Block(4, 5), Block(3, 3, part=1), Block(3, 4, image=1)))
VISUAL, WIDTH = 41, 24
PLACES = 7  # positions of a segment
TEXTS = ((11, 12, 13, 14, 15, 16), (11, 21, 22))


def random(*shape, seed):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.double()


HIDDEN = random(2, VISUAL, WIDTH, seed=0) + 0.6 * random(1, 1, WIDTH, seed=1)
FEATURES = random(2, VISUAL, 20, seed=2) + random(1, 1, 20, seed=3)
WORDS = random(99, WIDTH, seed=4)
ATTENTION = random(2, VISUAL, seed=5).softmax(dim=-1)
PROJECTION = random(20, 10, seed=6)
SENTENCES, CLIP_WORDS = random(99, 10, seed=7), random(99, PLACES, 10, seed=8)


def list_segments(ids):
    return [ids[0], ids[-1]]


def read_text(ids):
    return SENTENCES[list_segments(ids)]


def read_words(ids):
    return CLIP_WORDS[list_segments(ids)]


def project(features):
    return features @ PROJECTION


TOWER = ClipTower(read_text, project, read_words)
CLIP = {"relevance": "clip", "tower": TOWER}
SKIP = (11, 13, 16)
METHODS = {
    "cdpruner": CDPruner(14),
    "blend": CDPruner(14, blend=0.9, space="features"),
    "halves": CDPruner(14, halves=True),
    "centred": CDPruner(14, centred=True),
    "centred features": CDPruner(14, centred=True, space="features", halves=True),
    "clip": CDPruner(14, **CLIP),
    "centred clip": CDPruner(14, **CLIP, centred=True, blend=0.7),
    "none": CDPruner(14, relevance="none"),
    "centred none": CDPruner(14, relevance="none", centred=True),
    "mmtok": MMTok(14),
    "mmtok skip": MMTok(14, skip=SKIP),
    "mmtok skip all": MMTok(14, skip=(11, 21, 22)),
    "centred mmtok": MMTok(14, centred=True),
    "mmtok of tokens": MMTok(14, centred=True, space="tokens"),
    "eadp": EADP(14),
    "eadp squared": EADP(14, beta=2.0, centred=True),
    "eadp of features": EADP(14, space="features"),
    "eadp clip": EADP(14, **CLIP),
    "scope": SCOPE(14, space="tokens"),
    "centred scope": SCOPE(14, centred=True),
    "centred scope of tokens": SCOPE(14, centred=True, space="tokens", alpha=2.0),
}


def make_view(method, rows, layout=LAYOUT, visual=VISUAL):
    """The view of some samples; texts of unequal lengths are filled up."""
    count = method.plan(layout, 28).kept[0]
    texts = [TEXTS[row] for row in rows]
    longest = max(map(len, texts))
    embeds = torch.zeros(len(rows), longest, WIDTH, dtype=torch.float64)
    for row, ids in zip(embeds, texts, strict=True):
        row[: len(ids)] = WORDS[list(ids)]
    present = torch.arange(longest) < torch.tensor(list(map(len, texts)))[:, None]
    text = TextSignal(embeds, None if bool(present.all()) else present, tuple(texts))
    values = {
        EncoderNeed("features"): FEATURES[rows][:, :visual],
        EncoderNeed("class_attention"): ATTENTION[rows][:, :visual],
    }
    hidden = HIDDEN[rows][:, :visual]
    images = layout.image.expand(len(rows), -1)
    return View(
        0, count, count, hidden, images, layout=layout, text=text, encoder=EncoderSignals(values)
    )


def sample(row):
    ids = TEXTS[row]
    return reference.Sample(
        HIDDEN[row],
        FEATURES[row],
        WORDS[list(ids)],
        ids,
        GRIDS,
        ATTENTION[row],
        read_text(ids),
        read_words(ids),
        project,
    )


@pytest.mark.parametrize("name", METHODS)
def test_choices_are_the_references(name):
    method = METHODS[name]
    chosen = method.select(make_view(method, [0, 1]))
    assert chosen.score is None or chosen.score.shape == (2, VISUAL)
    for row in (0, 1):
        assert chosen.keep[row].tolist() == reference.keep(method, sample(row), 14)
        alone = method.select(make_view(method, [row]))
        assert torch.equal(alone.keep[0], chosen.keep[row])


def test_settings_of_these_methods_choose_apart():
    chosen = {}
    for name, method in METHODS.items():
        chosen[name] = tuple(method.select(make_view(method, [0, 1])).keep.flatten().tolist())
    assert len(set(chosen.values())) == len(METHODS)


@pytest.mark.parametrize("count", [1, 2, 5, 40])
@pytest.mark.parametrize(
    "method",
    [CDPruner(1, halves=True), CDPruner(1, centred=True), MMTok(1), EADP(1, **CLIP), SCOPE(1)],
    ids=lambda method: type(method).__name__,
)
def test_exactly_the_count_is_kept(method, count):
    method = replace(method, retain=count)
    chosen = method.select(make_view(method, [0, 1]))
    assert chosen.keep.shape == (2, count)
    assert all(len(set(row)) == count for row in chosen.keep.tolist())
    kept_images = {int(LAYOUT.image[token]) for token in chosen.keep[0].tolist()}
    assert kept_images == {0, 1} or count < len(GRIDS)


@pytest.mark.parametrize("space", ["tokens", "features"])
def test_an_image_of_one_token_is_as_distinctive_as_can_be(space):
    layout = grids_layout([(2, 3), (1, 1), (1, 4)])
    for method in (CDPruner(5), CDPruner(5, halves=True), MMTok(5), EADP(5), SCOPE(5)):
        own = replace(method, centred=True, space=space)
        chosen = own.select(make_view(own, [0, 1], layout, len(layout)))
        assert (chosen.keep == 6).any(dim=-1).all()
        assert chosen.score is None or bool(chosen.score.isfinite().all())


@pytest.mark.parametrize("name", METHODS)
def test_no_value_is_read_so_that_no_gpu_is_waited_for(name):
    view = make_view(METHODS[name], [0, 1])
    values = {need: value.to("meta") for need, value in view.encoder.values.items()}
    away = {key: getattr(view.text, key).to("meta") for key in ("embeds", "present")}
    method = METHODS[name]
    if getattr(method, "tower", None) is not None:
        tower = ClipTower(
            lambda ids: read_text(ids).to("meta"),
            lambda features: features[..., :10],
            lambda ids: read_words(ids).to("meta"),
        )
        method = replace(method, tower=tower)
    chosen = method.select(
        replace(
            view,
            hidden=view.hidden.to("meta"),
            images=view.images.to("meta"),
            text=replace(view.text, **away),
            encoder=EncoderSignals(values),
        )
    )
    assert chosen.keep.shape == (2, 14)


def test_row_ends_are_kept_last():
    layout = layout_of((Block(3, 3), Block(3, 4, row_end=1, part=1)))
    for method in (CDPruner(20), CDPruner(20, **CLIP), MMTok(20), EADP(20)):
        chosen = method.select(make_view(method, [0, 1], layout, len(layout)))
        ends = torch.isin(chosen.keep, layout.others)
        assert not ends.any()
        more = replace(method, retain=22)
        chosen = more.select(make_view(more, [0, 1], layout, len(layout)))
        assert torch.isin(chosen.keep, layout.others).sum(dim=-1).tolist() == [1, 1]


def test_equal_texts_are_encoded_once():
    seen = []
    tower = ClipTower(lambda ids: seen.append(ids) or read_text(ids), project)
    method = CDPruner(14, relevance="clip", tower=tower)
    method.select(make_view(method, [0, 1, 0, 0]))
    assert seen == [TEXTS[0], TEXTS[1]]


def test_ids_that_are_not_known_are_refused():
    view = make_view(METHODS["clip"], [0])
    view = replace(view, text=TextSignal(view.text.embeds))
    for name in ("clip", "mmtok skip", "eadp clip"):
        with pytest.raises(MethodError, match="token ids are read"):
            METHODS[name].select(view)
    METHODS["mmtok"].select(view)  # reads none
    for name in ("cdpruner", "mmtok", "eadp", "clip"):
        with pytest.raises(SettingError, match="needs the text behind the images"):
            METHODS[name].select(replace(view, text=None))
    METHODS["none"].select(replace(view, text=None))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"relevance": "words"}, "choose one of 'embedding', 'clip', 'none'"),
        ({"relevance": "clip"}, r"relevance='clip'\) needs CLIP's text tower.*make_clip_tower"),
        ({"tower": TOWER}, "reads no tower, and one is given"),
        ({"relevance": "clip", "tower": 3}, "tower=3; give"),
        ({**CLIP, "halves": True}, "halves=True is not defined for relevance='clip'"),
        ({"relevance": "none", "halves": True}, "halves=True is not defined"),
        ({"blend": 1.5}, r"blend=1.5 is out of range; give a share in \[0, 1\]"),
        ({"relevance": "none", "blend": 0.5}, "blend has no use with relevance='none'"),
        ({"space": "pixels"}, "choose one of 'tokens', 'features'"),
        ({"sites": (2,)}, "works on the input alone"),
    ],
)
def test_cdpruner_refuses(settings, message):
    with pytest.raises(SettingError, match=message):
        CDPruner(14, **settings)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (MMTok, {"text_temperature": 0}, "text_temperature=0 is out of range"),
        (MMTok, {"visual_temperature": -1.0}, "give a number above 0"),
        (MMTok, {"alpha": -1.0}, "give a number >= 0"),
        (MMTok, {"skip": ("the",)}, "skip=.*is no sequence of whole numbers"),
        (MMTok, {"sites": (0, 3)}, "works on the input alone"),
        (MMTok, {"space": "pixels"}, "choose one of"),
        (EADP, {"relevance": "none"}, "choose one of 'embedding', 'clip'"),
        (EADP, {"relevance": "clip", "tower": ClipTower(read_text, project)}, "give it words="),
        (EADP, {"relevance": "clip"}, "needs CLIP's text tower"),
        (EADP, {"share": 0.0}, "share=0.0 is out of range"),
        (EADP, {"beta": -0.5}, "beta=-0.5 is out of range"),
        (EADP, {"sites": (1,)}, "works on the input alone"),
        (SCOPE, {"space": "pixels"}, "choose one of"),
    ],
)
def test_others_refuse(kind, settings, message):
    with pytest.raises(SettingError, match=message):
        kind(14, **settings)


def test_published_settings():
    own = CDPruner.paper(64, TOWER)
    assert (own.retain, own.relevance, own.positions, own.blend) == (64, "clip", "renumber", None)
    with pytest.raises(SettingError, match="needs CLIP's text tower"):
        CDPruner.paper(64)
    assert MMTok.paper(64, SKIP) == MMTok(64, skip=SKIP, positions="renumber")
    assert EADP.paper(32, TOWER).relevance == "clip"
    for method, given in ((CDPruner, (TOWER,)), (MMTok, ()), (EADP, (TOWER,))):
        assert [method.paper(budget, *given).retain for budget in method.published]
        with pytest.raises(BudgetError, match="was not published"):
            method.paper(100, *given)
