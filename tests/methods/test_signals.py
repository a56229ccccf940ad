"""Methods declare what they read; the engine taps no more than that, and a method gets no more."""

from dataclasses import dataclass, fields, replace

import pytest
import torch

from sparsight import Method, SparseVLM, SparseVLMPlus, Sparsight, sparsify
from sparsight.cli.method import cli_name
from sparsight.counts.layout import Block, grids_layout, layout_of
from sparsight.errors import MethodError, SettingError
from sparsight.methods import (
    EADP,
    SCOPE,
    TOPS,
    CDPruner,
    DivPrune,
    FasterVLM,
    HiPrune,
    HoloV,
    MMTok,
    PixelPrune,
    PruMerge,
    PruMergePlus,
    PruneSID,
    ToMe,
    VisionZip,
    VisPruner,
    VScan,
    methods,
)
from sparsight.methods.decoder import DecoderKeys, TextStates
from sparsight.methods.encoder import EncoderNeed, EncoderSignals, TextSignal
from sparsight.methods.method import SIGNALS
from sparsight.methods.view import Distance, Selection, View
from tests.support import tiny
from tests.support.cases import tiny_model

# an overview, and a fine grid of 8 x 6 that was cut from four tiles of 4 x 4
CUT = layout_of((Block(4, 4), Block(8, 6, row_end=1, part=1, tiles=4)))
FRAMES = layout_of(tuple(Block(3, 3, frame=number) for number in range(4)))  # 36 tokens
IMAGE = grids_layout([(6, 6)])


def layout_for(method):
    """A layout of 36 tokens that a method prunes."""
    return FRAMES if method.videos_only else IMAGE


class Forbidden:
    """A signal that was not declared."""

    def __init__(self, name):
        object.__setattr__(self, "named", name)

    def __getattribute__(self, name):
        raise AssertionError(
            f"{object.__getattribute__(self, 'named')} is read without being declared"
        )


class Attention:
    """Rater attention of two samples."""

    found = torch.rand(2, 4, 3, 36, generator=torch.Generator().manual_seed(0))  # (G, H, R, V)

    def mean(self):
        return self.found.mean(dim=(1, 2))

    def mean_over_heads(self):
        return self.found.mean(dim=1)

    def mean_over_raters(self, weight=None):
        return (self.found if weight is None else self.found * weight[:, None]).mean(dim=2)


class Encoder(EncoderSignals):
    """Random signals of 36 tokens, those that are needed."""

    def __init__(self, needs):
        random = torch.Generator().manual_seed(2)
        sizes = {"features": (8,), "keys": (4,), "wide_keys": (8,)}
        values = {
            need: torch.rand(2, 36, *sizes.get(need.kind, ()), generator=random)
            for need in needs
            if need.kind != "projector"
        }
        if EncoderNeed("merged") in needs:
            values[EncoderNeed("merged")] = (torch.arange(36) % 12).expand(2, -1)
        if EncoderNeed("encoded") in needs:
            values[EncoderNeed("encoded")] = (torch.arange(36) % 3 == 0).float().expand(1, -1)
        projects = any(need.kind == "projector" for need in needs)
        super().__init__(values, torch.nn.Identity() if projects else None)


def view(signals, site, needs=(), layout=IMAGE):
    random = torch.Generator().manual_seed(3)
    keys = [torch.randn(2, 2, count, 4, generator=random) for count in (36, 3)]
    given = {
        "text": TextSignal(torch.zeros(2, 3, 8)),
        "text_states": TextStates(torch.randn(2, 3, 8, generator=random)),
        "decoder_keys": DecoderKeys(*keys),
        "norm": torch.nn.Identity(),
    }
    named = {name: given[name] if name in signals else Forbidden(name) for name in given}
    place = torch.arange(36).expand(2, -1)
    distance = Distance(place, torch.arange(40, 43).expand(2, -1), 50, torch.ones(4))
    return View(
        site=site,
        count=12,
        keep_count=12,
        hidden=torch.randn(2, 36, 8, generator=torch.Generator().manual_seed(1)),
        images=torch.zeros(2, 36, dtype=torch.int64),
        attention=Attention() if "attention" in signals else Forbidden("attention"),
        distance=distance if "distance" in signals else Forbidden("distance"),
        layout=layout if "layout" in signals else Forbidden("layout"),
        encoder=Encoder(needs) if "encoder" in signals else Forbidden("encoder"),
        sizes=torch.ones(2, 36) if "sizes" in signals else Forbidden("sizes"),
        **named,
    )


@pytest.mark.parametrize("method", methods(), ids=cli_name)
def test_no_method_reads_more_than_it_declares(method):
    own = method(retain=12)
    sites = (0, 2) if own.chooses_at_input else own.sites if own.sites == (0,) else (2,)
    for site in sites:
        rated = site >= own.first_rated_site()
        signals = own.signals if rated else own.signals - {"attention"}
        seen = view(signals, site, own.encoder_needs, layout_for(method))
        answer = own.select(replace(seen, keep_count=0 if method is ToMe else 12))
        assert answer.keep.shape[0] == (1 if method is PixelPrune else 2)  # always a group of one
    assert own.signals <= SIGNALS
    assert not own.encoder_needs or "encoder" in own.signals


BY_ENCODER = [HiPrune, FasterVLM, VisPruner, VisionZip, PruMerge, PruMergePlus, HoloV, PruneSID]
IN_ENCODER = [ToMe, PixelPrune]
OPTIONAL = {method: {"space": "features"} for method in (DivPrune, CDPruner, EADP, Sparsight)}


@pytest.mark.parametrize("method", [*BY_ENCODER, SCOPE, MMTok, VScan, TOPS, *IN_ENCODER, *OPTIONAL])
def test_each_need_of_the_encoder_is_read(method):
    own = method(retain=12, **OPTIONAL.get(method, {}))
    assert own.encoder_needs
    for need in own.encoder_needs:
        fewer = [other for other in own.encoder_needs if other != need]
        with pytest.raises(MethodError, match="without being declared"):
            own.select(replace(view(own.signals, 0, fewer), keep_count=0 if method is ToMe else 10))


@pytest.mark.parametrize("method", methods(), ids=cli_name)
def test_no_method_plans_more_than_it_declares(method):
    layout, made = layout_for(method), [method(retain=retain) for retain in (0.5, 1.0, 36)]
    if method.adaptive and "level" in {field.name for field in fields(method)}:
        level = {SparseVLM: "rank", Sparsight: "adaptive"}.get(method, "outliers")
        made += [replace(one, level=level) for one in (*made, method(retain=0.3))]
    plans = [one.plan(layout, 8) for one in made]
    bounds = any(not plan.exact for plan in plans)
    if method is ToMe:  # a merged token may lie in the padding that is cut off
        bounds = not made[0].plan(CUT, 8).exact
    assert method.adaptive == bounds
    assert method.scales_images == any(plan.image_grid is not None for plan in plans)
    assert all(plan.prunes == (min(plan.entering) < 36) for plan in plans)


def test_what_is_not_declared_would_be_noticed():
    @dataclass(frozen=True)
    class Sly(SparseVLMPlus):
        signals = frozenset({"attention"})

    with pytest.raises(AssertionError, match="distance is read"):
        Sly(retain=12).select(view(Sly.signals, 2))

    @dataclass(frozen=True)
    class Sneaky(HiPrune):
        @property
        def encoder_needs(self):
            return (EncoderNeed("received", 1),)

    with pytest.raises(MethodError, match=r"receive at 0\.35 of .* is read without"):
        Sneaky(retain=12).select(view(Sneaky.signals, 0, Sneaky().encoder_needs))


def test_unknown_signals_are_refused():
    @dataclass(frozen=True)
    class Odd(SparseVLM):
        signals = frozenset({"attention", "smell"})

    with pytest.raises(SettingError, match=r"Odd declares signals \['smell'\]; give some of"):
        Odd()


def test_a_method_that_declares_nothing_gets_nothing_and_taps_nothing():
    seen = []

    @dataclass(frozen=True)
    class Plain(Method):
        sites: tuple[int, ...] | None = (3,)

        def select(self, view):
            seen.append((view.attention, view.distance, view.layout, view.text))
            seen.append((view.text_states, view.decoder_keys, view.norm))
            with pytest.raises(MethodError, match="without being declared"):
                view.encoder.features()
            return Selection(torch.arange(view.count).expand(len(view.hidden), -1))

    model = tiny_model("sdpa")
    with torch.no_grad(), sparsify(model, Plain(retain=0.5)) as run:
        model(**tiny.batch([["image", 6]]).inputs)
    assert seen == [(None, None, None, None), (None, None, None)]
    assert run.stats.raters == (0,)


def test_names_are_those_of_the_class_itself():
    class Mine(SparseVLM):
        pass

    assert cli_name(Mine) == "mine"
    assert [cli_name(method) for method in methods()] == [method.name for method in methods()]
    assert all(method.summary for method in methods())
